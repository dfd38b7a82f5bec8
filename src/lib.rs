//! On-robot inference of the X-VLA policy.
