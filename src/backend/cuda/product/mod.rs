//! Matrix products, which take most of the time: what one is ([`linear`], [`matrix`], [`stored`]), who computes it
//! ([`matmul`], [`cublaslt`]), and who computes it fastest ([`gemm`], [`choices`]).

pub mod choices;
pub mod cublaslt;
pub mod gemm;
pub mod linear;
pub mod matmul;
pub mod matrix;
pub mod stored;
