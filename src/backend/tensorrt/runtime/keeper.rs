//! TensorRT for RTX compiles kernels for the GPU at hand when an engine is loaded and first run. They are kept in a file.
//! Full TensorRT's engines hold theirs.

pub use flavoured::{Keeper, context};

#[cfg(feature = "tensorrt-enterprise")]
mod flavoured {
    use std::path::PathBuf;
    use trtx::{CudaEngine, ExecutionContext};

    /// Has nothing to keep.
    pub struct Keeper;

    impl Keeper {
        /// Does nothing.
        pub fn keep(&mut self) {}
    }

    /// Makes the engine ready to run.
    ///
    /// # Errors
    /// What TensorRT refuses.
    pub fn context(
        engine: &mut CudaEngine<'static>,
        _: Option<PathBuf>,
    ) -> Result<(ExecutionContext<'static>, Keeper), trtx::Error> {
        Ok((engine.create_execution_context()?, Keeper))
    }
}

#[cfg(not(feature = "tensorrt-enterprise"))]
mod flavoured {
    use crate::backend::engine::files::{read_hashed, replace_hashed};
    use crate::backend::tensorrt::log::quoted;
    use std::io::ErrorKind;
    use std::path::{Path, PathBuf};
    use std::rc::Rc;
    use std::sync::Arc;
    use trtx::{CudaEngine, CudaGraphStrategy, ExecutionContext, RuntimeCache, RuntimeConfig};

    /// Keeps compiled kernels in a file, and the context's configuration alive: the binding's context drops its share
    /// before TensorRT's context goes.
    pub struct Keeper {
        _config: Rc<RuntimeConfig<'static>>,
        cache: Arc<RuntimeCache>,
        /// Where to; `None` once that is done.
        path: Option<PathBuf>,
    }

    impl Keeper {
        /// Writes the kernels, once. Nothing depends on the file, so a failure is a warning.
        pub fn keep(&mut self) {
            let Some(path) = self.path.take() else { return };
            let kept = quoted(|| self.cache.serialize()).and_then(|kernels| write(&path, &kernels));
            if let Err(reason) = kept {
                tracing::warn!("{}: compiled kernels are not kept: {reason}", path.display());
            }
        }
    }

    /// Makes the engine ready to run, with the kernels that `path` has for this GPU.
    ///
    /// # Errors
    /// What TensorRT refuses.
    pub fn context(
        engine: &mut CudaEngine<'static>,
        path: Option<PathBuf>,
    ) -> Result<(ExecutionContext<'static>, Keeper), trtx::Error> {
        let mut config = engine.create_runtime_config()?;
        // The pipeline records graphs of its own, around all steps.
        config.set_cuda_graph_strategy(CudaGraphStrategy::kDISABLED)?;
        let cache = Arc::new(config.create_runtime_cache()?);
        if let Some(path) = &path {
            read(path, &cache);
        }
        config.set_runtime_cache(cache.clone())?;
        let config = Rc::new(config);
        let context = engine.create_execution_context_with_config(config.clone())?;
        Ok((context, Keeper { _config: config, cache, path }))
    }

    fn read(path: &Path, cache: &RuntimeCache) {
        let read = match read_hashed(path) {
            Ok(kernels) => quoted(|| cache.deserialize(&kernels)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(reason) = read {
            tracing::warn!("{}: kernels are compiled again: {reason}", path.display());
        }
    }

    /// Puts the kernels at `path`, unless they are there already.
    fn write(path: &Path, kernels: &[u8]) -> Result<(), String> {
        if read_hashed(path).is_ok_and(|present| present == kernels) {
            return Ok(());
        }
        replace_hashed(path, kernels).map_err(|error| error.to_string())
    }
}
