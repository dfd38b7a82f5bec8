//! Compiles this project's kernels (`*.cu`) to machine code with NVRTC, for the GPU and for the sizes of the
//! checkpoint in use, unless an earlier start has.

#![allow(unsafe_code, reason = "calls NVRTC")]

use super::kernel_cache::KernelCache;
use crate::backend::BackendError;
use crate::backend::device;
use crate::backend::engine::files::short_hash;
use cudarc::nvrtc::result::{self, NvrtcError};
use cudarc::nvrtc::sys;
use std::collections::HashSet;
use std::ffi::{CStr, CString, NulError, c_char};
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};
use tch::Kind;

/// Text that is put before every source.
const PRELUDE: &str = include_str!("headers/prelude.cuh");
/// Name and text of each header that sources include.
const HEADERS: [(&str, &str); 3] = [
    ("hopper.cuh", include_str!("headers/hopper.cuh")),
    ("softmax.cuh", include_str!("headers/softmax.cuh")),
    ("wgmma.cuh", include_str!("headers/wgmma.cuh")),
];

/// A source file with the macros that fix its sizes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Name of the file, without its ending.
    pub name: &'static str,
    /// Text of the file, without the prelude.
    pub text: &'static str,
    /// Macros and their values.
    pub macros: Vec<(&'static str, usize)>,
}

impl Source {
    /// The same kernels, storing their result in FP8.
    pub fn storing_fp8(&self) -> Self {
        let mut variant = self.clone();
        variant.macros.push(("OUTPUT_FP8", 1));
        variant
    }
}

/// Names the `.cu` file beside the calling one, with macros.
macro_rules! source {
    ($name:literal $(, $macro:ident = $value:expr)*) => {
        $crate::backend::cuda::device::compiler::Source {
            name: $name,
            text: include_str!(concat!($name, ".cu")),
            macros: vec![$((stringify!($macro), $value)),*],
        }
    };
}
pub(in crate::backend::cuda) use source;

/// What a source is compiled for.
#[derive(Clone, Debug)]
struct Build<'a> {
    source: &'a Source,
    /// Of the GPU, such as `sm_90a`.
    architecture: &'a str,
    options: Vec<String>,
}

/// Machine code of each distinct source in `sources` for `kind` (f16 or bf16) on GPUs of this compute capability, read
/// from `cache` or compiled and kept there.
///
/// # Errors
/// [`BackendError::Kernel`] with the compiler's first error.
pub fn compile(
    sources: Vec<Source>,
    kind: Kind,
    (major, minor): (i32, i32),
    cache: &KernelCache,
) -> Result<Vec<(Source, Vec<u8>)>, BackendError> {
    // The suffix `a` enables instructions that only Hopper has.
    let variant = if (major, minor) == (9, 0) { "a" } else { "" };
    let architecture = format!("sm_{major}{minor}{variant}");
    let version = version()?;
    let mut seen = HashSet::new();
    let different = sources.into_iter().filter(|source| seen.insert(source.clone())).collect();
    let compiled = in_parallel(different, |source| {
        let build = Build::new(source, kind, &architecture);
        cache.machine_code(&build.file_name(&version), || build.compile())
    });
    compiled.into_iter().map(|(source, binary)| Ok((source, binary?))).collect()
}

/// NVRTC's version, major and minor, and the size of its file, which tells releases of one version apart.
///
/// # Errors
/// [`BackendError::Kernel`] if it does not tell.
pub fn version() -> Result<String, BackendError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: it writes two numbers.
    unsafe { sys::nvrtcVersion(&mut major, &mut minor) }
        .result()
        .map_err(|error| BackendError::Kernel { kernel: "NVRTC".to_owned(), reason: format!("{:?}", error.0) })?;
    let file = device::loaded_library("libnvrtc.so").and_then(|path| path.metadata().ok());
    Ok(format!("{major}.{minor}, {} bytes", file.map_or(0, |file| file.len())))
}

/// Everything that is compiled for a source: prelude, text and headers.
pub fn whole_text(text: &str) -> String {
    let headers = HEADERS.iter().flat_map(|(name, text)| [*name, *text]);
    [PRELUDE, text].into_iter().chain(headers).collect::<Vec<_>>().join("\0")
}

/// Every item with its result of `work`, in any order, computed on as many threads as the machine runs at a time.
fn in_parallel<T: Send, R: Send>(items: Vec<T>, work: impl Fn(&T) -> R + Sync) -> Vec<(T, R)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let items = Mutex::new(items.into_iter());
    let next = || items.lock().unwrap_or_else(PoisonError::into_inner).next();
    let worker = || {
        let done = std::iter::from_fn(next).map(|item| {
            let result = work(&item);
            (item, result)
        });
        done.collect::<Vec<_>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(worker)).collect();
        workers.into_iter().filter_map(|worker| worker.join().ok()).flatten().collect()
    })
}

impl<'a> Build<'a> {
    fn new(source: &'a Source, kind: Kind, architecture: &'a str) -> Self {
        let mut options = vec![format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
        options.extend(source.macros.iter().map(|(name, value)| format!("-D{name}={value}")));
        if kind == Kind::BFloat16 {
            options.push("-DXVLA_BF16".to_owned());
        }
        Self { source, architecture, options }
    }

    /// The file that keeps the machine code, named after everything that it depends on.
    fn file_name(&self, version: &str) -> String {
        let (options, text) = (self.options.join("\0"), whole_text(self.source.text));
        let hash = short_hash(&format!("{version}\0{options}\0{text}"));
        format!("{}-{}-{hash}.cubin", self.source.name, self.architecture)
    }

    fn compile(&self) -> Result<Vec<u8>, BackendError> {
        let fault = |reason: String| BackendError::Kernel { kernel: self.source.name.to_owned(), reason };
        let refused = |error: NvrtcError| fault(format!("{:?}", error.0));
        let texts = Texts::of(self.source).map_err(|error| fault(error.to_string()))?;
        let program = Program::new(&texts).map_err(refused)?;
        if let Err(error) = program.compile(&self.options) {
            let log = program.log();
            let first = log.iter().flat_map(|log| log.lines()).find(|line| line.contains("error"));
            return Err(fault(format!("{:?}: {}", error.0, first.unwrap_or("no log"))));
        }
        program.machine_code().map_err(refused)
    }
}

/// A source and the headers as C strings for NVRTC.
struct Texts {
    source: CString,
    headers: Vec<CString>,
    header_names: Vec<CString>,
}

impl Texts {
    fn of(source: &Source) -> Result<Self, NulError> {
        Ok(Self {
            source: CString::new(format!("{PRELUDE}\n{}", source.text))?,
            headers: HEADERS.iter().map(|(_, text)| CString::new(*text)).collect::<Result<_, _>>()?,
            header_names: HEADERS.iter().map(|(name, _)| CString::new(*name)).collect::<Result<_, _>>()?,
        })
    }
}

/// NVRTC's handle; it may refer to the texts that it was made from.
struct Program<'texts> {
    program: sys::nvrtcProgram,
    _texts: &'texts Texts,
}

impl<'texts> Program<'texts> {
    fn new(texts: &'texts Texts) -> Result<Self, NvrtcError> {
        let pointers = |texts: &[CString]| texts.iter().map(|text| text.as_ptr()).collect::<Vec<*const c_char>>();
        let (headers, names) = (pointers(&texts.headers), pointers(&texts.header_names));
        let count = i32::try_from(headers.len()).unwrap_or(i32::MAX);
        let mut program = MaybeUninit::uninit();
        // SAFETY: the texts end in NUL and outlive the program; there are `count` headers and as many names. The
        // program is written unless NVRTC refuses.
        let program = unsafe {
            let (source, name) = (texts.source.as_ptr(), std::ptr::null());
            sys::nvrtcCreateProgram(program.as_mut_ptr(), source, name, count, headers.as_ptr(), names.as_ptr())
                .result()?;
            program.assume_init()
        };
        Ok(Self { program, _texts: texts })
    }

    fn compile(&self, options: &[String]) -> Result<(), NvrtcError> {
        // SAFETY: the program is alive.
        unsafe { result::compile_program(self.program, options) }
    }

    /// The compiler's log; `None` if it is empty.
    fn log(&self) -> Option<String> {
        // SAFETY: the program is alive.
        let log = unsafe { result::get_program_log(self.program) }.unwrap_or_default();
        // SAFETY: the log ends in NUL; an empty one is not looked at.
        (!log.is_empty()).then(|| unsafe { CStr::from_ptr(log.as_ptr()) }.to_string_lossy().into_owned())
    }

    fn machine_code(&self) -> Result<Vec<u8>, NvrtcError> {
        let mut size = 0;
        // SAFETY: the program is alive; the second call writes the `size` bytes that the first one announced.
        unsafe {
            sys::nvrtcGetCUBINSize(self.program, &mut size).result()?;
            let mut binary = vec![0u8; size];
            sys::nvrtcGetCUBIN(self.program, binary.as_mut_ptr().cast()).result()?;
            Ok(binary)
        }
    }
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: made by NVRTC, freed once. An error cannot be handled here and is ignored.
        let _ = unsafe { result::destroy_program(self.program) };
    }
}

#[cfg(test)]
mod tests {
    use super::{Build, Source, in_parallel};
    use std::collections::HashSet;
    use std::sync::Mutex;
    use tch::Kind;

    #[test]
    fn machine_code_for_anything_else_has_another_name() {
        let source = Source { name: "resize", text: "void f() {}", macros: vec![("SIZE", 1)] };
        let name =
            |source: &Source, kind, architecture, version| Build::new(source, kind, architecture).file_name(version);
        let this = name(&source, Kind::Half, "sm_90a", "13.0");
        assert!(this.starts_with("resize-sm_90a-") && this.ends_with(".cubin"), "{this}");
        assert_eq!(name(&source.clone(), Kind::Half, "sm_90a", "13.0"), this);
        let edited = Source { text: "void f() { }", ..source.clone() };
        let others = [
            name(&edited, Kind::Half, "sm_90a", "13.0"),
            name(&source.storing_fp8(), Kind::Half, "sm_90a", "13.0"),
            name(&Source { macros: vec![("SIZE", 11)], ..source.clone() }, Kind::Half, "sm_90a", "13.0"),
            name(&source, Kind::BFloat16, "sm_90a", "13.0"),
            name(&source, Kind::Half, "sm_89", "13.0"),
            name(&source, Kind::Half, "sm_90a", "13.1"),
        ];
        let different: HashSet<&String> = others.iter().chain([&this]).collect();
        assert_eq!(different.len(), 1 + others.len(), "{others:?}");
    }

    #[test]
    fn every_item_is_worked_on_once() {
        let mut squares = in_parallel((0..100).collect(), |item: &u32| item * item);
        squares.sort_unstable();
        assert_eq!(squares, (0..100).map(|item| (item, item * item)).collect::<Vec<_>>());
    }

    #[test]
    fn no_more_threads_work_than_the_machine_runs_at_a_time() {
        let threads = Mutex::new(HashSet::new());
        in_parallel((0..1000).collect(), |_: &u32| threads.lock().unwrap().insert(std::thread::current().id()));
        let used = threads.into_inner().unwrap().len();
        assert!(used <= std::thread::available_parallelism().unwrap().get(), "{used} threads");
    }
}
