//! What the kernels of a compiled CUDA source take, read from the file (ELF) itself.

use tch::Kind;
use xvla_ros::backend::cuda::device::compiler::Source;

/// What one kernel takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// File, macros, dtype and kernel.
    pub name: String,
    /// Name of the file, without its ending.
    pub file: &'static str,
    /// Macros and their values.
    pub macros: Vec<(&'static str, usize)>,
    /// Name of the kernel in the file.
    pub kernel: String,
    /// Of a thread.
    pub registers: u32,
    /// Of a thread, in local memory: spilt registers and arrays that are indexed.
    pub stack_bytes: u32,
    /// That the kernel declares, without what a launch adds.
    pub shared_bytes: u32,
    /// The most threads of a block, as the kernel's launch bounds say; 0 without any.
    pub threads: u32,
}

/// A section of an ELF file: name, contents, and the number that some types of section keep beside it.
struct Section<'a> {
    name: &'a str,
    bytes: &'a [u8],
    size: u64,
}

/// Tags of entries in `.nv.info` (EIATTR in NVIDIA's binary utilities).
const MAX_THREADS: u8 = 0x05;
const FRAME_SIZE: u8 = 0x11;
const REGISTER_COUNT: u8 = 0x2f;

fn u16_at(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

/// The text that begins at `at` and ends in NUL.
fn text_at(bytes: &[u8], at: usize) -> &str {
    let end = bytes[at..].iter().position(|byte| *byte == 0).unwrap();
    std::str::from_utf8(&bytes[at..at + end]).unwrap()
}

fn sections(elf: &[u8]) -> Vec<Section<'_>> {
    assert_eq!(&elf[..5], b"\x7fELF\x02", "a 64-bit ELF file");
    let (table, entry, count, names) =
        (u64_at(elf, 0x28) as usize, u16_at(elf, 0x3a), u16_at(elf, 0x3c), u16_at(elf, 0x3e));
    let header = |index: usize| &elf[table + index * entry..table + (index + 1) * entry];
    let contents = |header: &[u8]| {
        let (offset, size) = (u64_at(header, 0x18) as usize, u64_at(header, 0x20) as usize);
        const NO_BITS: u32 = 8;
        if u32_at(header, 4) == NO_BITS { &elf[..0] } else { &elf[offset..offset + size] }
    };
    let names = contents(header(names));
    let section = |index: usize| {
        let header = header(index);
        Section {
            name: text_at(names, u32_at(header, 0) as usize),
            bytes: contents(header),
            size: u64_at(header, 0x20),
        }
    };
    (0..count).map(section).collect()
}

/// Entries of a `.nv.info` section as tag and value.
fn entries(mut bytes: &[u8]) -> Vec<(u8, &[u8])> {
    const SIZED: u8 = 4;
    let mut found = Vec::new();
    while bytes.len() >= 4 {
        // A value in the entry itself, or one of the size that stands there.
        let size = if bytes[0] == SIZED { u16_at(bytes, 2) } else { 0 };
        found.push((bytes[1], &bytes[4..4 + size]));
        bytes = &bytes[4 + size..];
    }
    found
}

/// What each kernel of `cubin` takes, which was compiled from `source` for `kind`.
pub fn usages(source: &Source, kind: Kind, cubin: &[u8]) -> Vec<Usage> {
    let sections = sections(cubin);
    let of = |name: &str| sections.iter().find(|section| section.name == name);
    let (symbols, names) = (of(".symtab").unwrap().bytes, of(".strtab").unwrap().bytes);
    let symbol = |index: u32| text_at(names, u32_at(symbols, 24 * index as usize) as usize);
    let all = entries(of(".nv.info").unwrap().bytes);
    let per_kernel = |tag: u8, kernel: &str| {
        let of_tag = all.iter().filter(|(found, value)| *found == tag && value.len() >= 8);
        of_tag.filter(|(_, value)| symbol(u32_at(value, 0)) == kernel).map(|(_, value)| u32_at(value, 4)).next()
    };
    let macros: Vec<String> = source.macros.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let label = [source.name.to_owned(), macros.join(",")].into_iter().filter(|part| !part.is_empty());
    let label = label.collect::<Vec<_>>().join(" ");
    let usage = |kernel: &str| {
        let own = of(&format!(".nv.info.{kernel}")).map_or_else(Vec::new, |section| entries(section.bytes));
        let threads = own.iter().find(|(tag, value)| *tag == MAX_THREADS && value.len() >= 12);
        Usage {
            name: format!("{label} {kind:?} {kernel}"),
            file: source.name,
            macros: source.macros.clone(),
            kernel: kernel.to_owned(),
            registers: per_kernel(REGISTER_COUNT, kernel).unwrap_or_else(|| panic!("{kernel}: no register count")),
            stack_bytes: per_kernel(FRAME_SIZE, kernel).unwrap_or(0),
            shared_bytes: of(&format!(".nv.shared.{kernel}")).map_or(0, |section| section.size as u32),
            threads: threads.map_or(0, |(_, value)| (0..3).map(|axis| u32_at(value, 4 * axis)).product()),
        }
    };
    let kernels = sections.iter().filter_map(|section| section.name.strip_prefix(".text."));
    kernels.map(usage).collect()
}
