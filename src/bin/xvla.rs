//! Placeholder for the layout; replaced by the program itself.
fn main() {}
