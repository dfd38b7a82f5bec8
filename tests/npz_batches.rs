//! The batch contract: what NumPy wrote is read, what was written is read back, and a file that breaks the
//! contract is refused by name of file and key.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic is how a test fails")]

use std::io::Write;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use xvla_ros::data::DatasetError;
use xvla_ros::data::batch::{Batch, Limits, calibration_files, read_batch, write_batch};
use xvla_ros::data::npy::{NpyArray, NpyData, encode};
use xvla_ros::data::npz::{NpzReader, write_npz};
use xvla_ros::types::{HostArray, ModelInputs};
use zip::CompressionMethod;
use zip::write::SimpleFileOptions;

/// B 2, V 2, H 4, W 6, L 5, P 3, T 2, A 4.
fn batch() -> Batch {
    let floats = |count: usize| (0..count).map(|i| i as f32 * 0.25 - 3.0).collect::<Vec<_>>();
    Batch {
        inputs: ModelInputs {
            batch: 2,
            views: 2,
            height: 4,
            width: 6,
            tokens: 5,
            proprio_dim: 3,
            input_ids: vec![0, 7, 9, 2, 1, 0, 8, 2, 1, 1],
            image_input: floats(2 * 2 * 3 * 4 * 6),
            image_mask: vec![true, false, true, true],
            domain_id: vec![3, 5],
            proprio: floats(6),
        },
        noise: Some(HostArray { shape: vec![2, 2, 4], data: floats(16) }),
        actions: None,
    }
}

/// The arrays of [`batch`], to be spoiled.
fn arrays() -> Vec<(&'static str, NpyArray)> {
    let Batch { inputs, noise, .. } = batch();
    vec![
        ("input_ids", NpyArray { shape: vec![2, 5], data: NpyData::I64(inputs.input_ids) }),
        ("image_input", NpyArray { shape: vec![2, 2, 3, 4, 6], data: NpyData::F32(inputs.image_input) }),
        ("image_mask", NpyArray { shape: vec![2, 2], data: NpyData::Bool(inputs.image_mask) }),
        ("domain_id", NpyArray { shape: vec![2], data: NpyData::I64(inputs.domain_id) }),
        ("proprio", NpyArray { shape: vec![2, 3], data: NpyData::F32(inputs.proprio) }),
        ("noise", noise.unwrap().into()),
    ]
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("batch.npz")
    }
}

fn read(path: &Path) -> Result<Batch, DatasetError> {
    read_batch(path, Limits::default())
}

/// The error of a batch in which `spoil` changed the array `key`.
fn refusal(key: &str, spoil: impl FnOnce(&mut NpyArray)) -> DatasetError {
    let folder = Folder::new();
    let mut arrays = arrays();
    spoil(&mut arrays.iter_mut().find(|(name, _)| *name == key).unwrap().1);
    write_npz(&folder.path(), &arrays).unwrap();
    let error = read(&folder.path()).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("batch.npz") && message.contains(&format!("`{key}`")), "{message}");
    error
}

fn write_members(path: &Path, method: CompressionMethod, members: &[(&str, Vec<u8>)]) {
    let mut archive = zip::ZipWriter::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in members {
        archive.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        archive.write_all(bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn a_batch_that_was_written_reads_back_the_same() {
    let folder = Folder::new();
    let mut batch = batch();
    write_batch(&folder.path(), &batch).unwrap();
    assert_eq!(read(&folder.path()).unwrap(), batch);

    batch.actions = Some(HostArray { shape: vec![2, 2, 3], data: vec![0.5; 12] });
    batch.noise = None;
    write_batch(&folder.path(), &batch).unwrap();
    assert_eq!(read(&folder.path()).unwrap(), batch);
}

#[test]
fn batches_that_numpy_wrote_are_read_whatever_their_compression() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/cases");
    let mut count = 0;
    for case in std::fs::read_dir(cases).unwrap() {
        let path = case.unwrap().path().join("inputs.npz");
        let batch = read(&path).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(batch.inputs.check(true), Ok(()), "{}", path.display());
        count += 1;
    }
    assert!(count > 5, "{count} cases");
}

#[test]
fn deflated_members_half_precision_images_and_extra_keys_are_accepted() {
    let folder = Folder::new();
    let mut expected = batch();
    let mut members = Vec::new();
    for (key, mut array) in arrays() {
        if key == "image_input" {
            let NpyData::F32(values) = &array.data else { panic!("f32 above") };
            let halves: Vec<_> = values.iter().map(|value| half::f16::from_f32(*value)).collect();
            expected.inputs.image_input = halves.iter().map(|value| value.to_f32()).collect();
            array.data = NpyData::F16(halves);
        }
        members.push((format!("{key}.npy"), encode(&array).unwrap()));
    }
    members.push(("language.npy".to_owned(), b"not even an array".to_vec()));
    let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    write_members(&folder.path(), CompressionMethod::Deflated, &members);
    assert_eq!(read(&folder.path()).unwrap(), expected);
}

/// [`batch`] whose array `key` is stored as `data` instead.
fn stored_as(key: &str, data: impl FnOnce(&NpyData) -> NpyData) -> Result<Batch, DatasetError> {
    let folder = Folder::new();
    let mut arrays = arrays();
    let array = &mut arrays.iter_mut().find(|(name, _)| *name == key).unwrap().1;
    array.data = data(&array.data);
    write_npz(&folder.path(), &arrays).unwrap();
    read(&folder.path())
}

#[test]
fn other_dtypes_are_taken_where_the_cast_is_exact() {
    fn floats(data: &NpyData) -> &[f32] {
        let NpyData::F32(values) = data else { panic!("{}", data.dtype()) };
        values
    }
    fn integers(data: &NpyData) -> &[i64] {
        let NpyData::I64(values) = data else { panic!("{}", data.dtype()) };
        values
    }
    let doubles = |data: &NpyData| NpyData::F64(floats(data).iter().map(|value| f64::from(*value)).collect());
    let small = |data: &NpyData| NpyData::I32(integers(data).iter().map(|value| *value as i32).collect());
    let whole = |data: &NpyData| NpyData::F32(integers(data).iter().map(|value| *value as f32).collect());
    let bytes = |data: &NpyData| {
        let NpyData::Bool(values) = data else { panic!("{}", data.dtype()) };
        NpyData::U8(values.iter().map(|value| u8::from(*value)).collect())
    };
    for read in [
        stored_as("image_input", doubles),
        stored_as("proprio", doubles),
        stored_as("noise", doubles),
        stored_as("input_ids", small),
        stored_as("domain_id", whole),
        stored_as("image_mask", bytes),
    ] {
        assert_eq!(read.unwrap(), batch());
    }
}

#[test]
fn the_first_value_that_a_cast_would_change_is_named() {
    let refused = |key: &str, data: NpyData| stored_as(key, |_| data).unwrap_err().to_string();
    let proprio = refused("proprio", NpyData::F64(vec![0.5, 0.25, 0.1, 0.2, 1.0, 1.0]));
    assert!(proprio.contains("`proprio`: dtype is float64, and 0.1 at index 2 is no float32"), "{proprio}");
    let ids = refused("input_ids", NpyData::F32(vec![0.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
    assert!(ids.contains("`input_ids`: dtype is float32, and 0.5 at index 1 is no int64"), "{ids}");
    let mask = refused("image_mask", NpyData::U8(vec![1, 1, 255, 1]));
    assert!(mask.contains("`image_mask`: dtype is uint8, and 255 at index 2 is no bool"), "{mask}");
}

#[test]
fn a_type_that_is_no_number_is_refused_with_what_this_key_expects() {
    let folder = Folder::new();
    let mut members: Vec<_> =
        arrays().into_iter().map(|(key, array)| (format!("{key}.npy"), encode(&array).unwrap())).collect();
    let at = members[4].1.windows(3).position(|window| window == b"<f4").unwrap();
    members[4].1[at..at + 3].copy_from_slice(b"<c8");
    let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    write_members(&folder.path(), CompressionMethod::Stored, &members);
    let message = read(&folder.path()).unwrap_err().to_string();
    assert!(message.ends_with("`proprio`: dtype is <c8: expected float32"), "{message}");
}

#[test]
fn each_wrong_shape_is_refused_with_the_extents_the_other_keys_imply() {
    let reshape = |shape: &[usize]| {
        let shape = shape.to_vec();
        move |array: &mut NpyArray| array.shape = shape
    };
    let shape = |error: DatasetError| match error {
        DatasetError::Shape { expected, .. } => expected,
        other => panic!("{other}"),
    };
    assert_eq!(shape(refusal("input_ids", reshape(&[10]))), "[B, L]");
    assert_eq!(shape(refusal("image_input", reshape(&[1, 4, 3, 4, 6]))), "[B=2, V, 3, H, W]");
    assert_eq!(shape(refusal("image_input", reshape(&[2, 2, 4, 3, 6]))), "[B=2, V, 3, H, W]");
    assert_eq!(shape(refusal("image_mask", reshape(&[1, 4]))), "[B=2, V=2]");
    assert_eq!(shape(refusal("domain_id", reshape(&[2, 1]))), "[B=2]");
    assert_eq!(shape(refusal("proprio", reshape(&[3, 2]))), "[B=2, P]");
    assert_eq!(shape(refusal("noise", reshape(&[4, 1, 4]))), "[B=2, T, A]");
}

#[test]
fn a_batch_without_samples_tokens_or_views_is_refused() {
    for key in ["input_ids", "image_input"] {
        let error = refusal(key, |array| {
            array.shape[1] = 0;
            array.data = match array.data {
                NpyData::I64(_) => NpyData::I64(vec![]),
                _ => NpyData::F32(vec![]),
            };
        });
        assert!(matches!(error, DatasetError::Shape { .. }), "{error}");
    }
}

#[test]
fn nan_and_infinity_are_refused_with_their_index() {
    for (key, value, place) in
        [("image_input", f32::NAN, 17), ("proprio", f32::INFINITY, 5), ("noise", f32::NEG_INFINITY, 0)]
    {
        let error = refusal(key, |array| {
            let NpyData::F32(values) = &mut array.data else { panic!("{key} holds floats") };
            values[place] = value;
        });
        assert!(matches!(error, DatasetError::NotFinite { index, .. } if index == place), "{error}");
    }
}

#[test]
fn each_missing_key_is_named_with_those_that_are_there() {
    for key in ["input_ids", "image_input", "image_mask", "domain_id", "proprio"] {
        let folder = Folder::new();
        let rest: Vec<_> = arrays().into_iter().filter(|(name, _)| *name != key).collect();
        write_npz(&folder.path(), &rest).unwrap();
        let message = read(&folder.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("batch.npz: `{key}`: missing: the file has ")), "{message}");
        assert!(message.ends_with("noise"), "{message}");
    }
}

#[test]
fn what_is_no_archive_is_refused() {
    let folder = Folder::new();
    for bytes in [&b""[..], b"PK", b"\x93NUMPY\x01\x00v\x00{'descr'", &[0; 4096]] {
        std::fs::write(folder.path(), bytes).unwrap();
        let error = read(&folder.path()).unwrap_err();
        assert!(matches!(error, DatasetError::Archive { .. }), "{error}");
    }
    let error = read(&folder.0.path().join("absent.npz")).unwrap_err();
    assert!(matches!(error, DatasetError::Io { .. }), "{error}");
}

#[test]
fn a_pipe_a_device_and_a_folder_are_refused_before_they_are_opened() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    assert!(std::process::Command::new("mkfifo").arg(path("pipe.npz")).status().unwrap().success());
    std::os::unix::fs::symlink("/dev/zero", path("device.npz")).unwrap();
    std::fs::create_dir(path("folder.npz")).unwrap();
    for name in ["pipe.npz", "device.npz", "folder.npz"] {
        let refusal = read(&path(name)).unwrap_err().to_string();
        assert!(refusal.ends_with(&format!("{name}: not a regular file")), "{refusal}");
    }
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    let folder = Folder::new();
    write_batch(&folder.path(), &batch()).unwrap();
    let bytes = std::fs::read(folder.path()).unwrap();
    for length in (0..bytes.len()).step_by(97) {
        std::fs::write(folder.path(), &bytes[..length]).unwrap();
        assert!(read(&folder.path()).is_err(), "{length} of {} bytes", bytes.len());
    }
}

#[test]
fn a_bomb_is_refused_from_its_directory_before_anything_is_inflated() {
    let folder = Folder::new();
    write_members(&folder.path(), CompressionMethod::Deflated, &[("input_ids.npy", vec![0; 8 << 20])]);
    let limits = Limits { max_bytes: 1 << 20, ..Limits::default() };
    let error = NpzReader::open(&folder.path(), limits).err().unwrap();
    assert!(matches!(error, DatasetError::TooLarge { bytes, .. } if bytes == 8 << 20), "{error}");
    assert!(error.to_string().contains("`input_ids`: 8388608 bytes exceed the limit of 1048576"), "{error}");
}

#[test]
fn a_bomb_that_lies_about_its_size_is_stopped_while_inflating() {
    let folder = Folder::new();
    let mut member = encode(&NpyArray { shape: vec![109], data: NpyData::I64(vec![0; 109]) }).unwrap();
    assert_eq!(member.len(), 1000);
    member.resize(8 << 20, 0);
    write_members(&folder.path(), CompressionMethod::Deflated, &[("input_ids.npy", member)]);
    // The inflated size stands in the local header and in the directory; say 1,000 in both.
    let mut bytes = std::fs::read(folder.path()).unwrap();
    let declared = (8_u32 << 20).to_le_bytes();
    let places: Vec<_> = (0..bytes.len() - 4).filter(|at| bytes[*at..at + 4] == declared).collect();
    assert_eq!(places.len(), 2);
    for at in places {
        bytes[at..at + 4].copy_from_slice(&1000_u32.to_le_bytes());
    }
    std::fs::write(folder.path(), bytes).unwrap();

    let mut npz = NpzReader::open(&folder.path(), Limits::default()).unwrap();
    let error = npz.read("input_ids").unwrap_err().to_string();
    assert!(error.contains("`input_ids`") && error.contains("larger than its declared"), "{error}");
}

/// [`batch`] with one member replaced.
fn with_member(path: &Path, method: CompressionMethod, key: &str, member: Vec<u8>) {
    let others = arrays().into_iter().filter(|(name, _)| *name != key);
    let mut members: Vec<_> = others.map(|(name, array)| (format!("{name}.npy"), encode(&array).unwrap())).collect();
    members.push((format!("{key}.npy"), member));
    let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    write_members(path, method, &members);
}

#[test]
fn values_that_would_outgrow_the_limit_when_they_are_cast_are_refused() {
    let folder = Folder::new();
    for (key, shape, bytes) in
        [("input_ids", vec![1, 900_000], 7_200_000), ("image_input", vec![2, 1, 3, 500, 300], 3_600_000)]
    {
        let data = NpyData::I8(vec![0; shape.iter().product()]);
        let member = encode(&NpyArray { shape, data }).unwrap();
        with_member(&folder.path(), CompressionMethod::Deflated, key, member);
        let error = read_batch(&folder.path(), Limits { max_bytes: 1 << 20, ..Limits::default() }).unwrap_err();
        let DatasetError::TooLarge { key: named, bytes: needed, .. } = &error else { panic!("{error}") };
        assert_eq!(named, key);
        // What the arrays before take is counted with it.
        assert!((bytes..bytes + 1000).contains(needed), "{error}");
    }
}

#[test]
fn an_array_in_fortran_order_is_read_as_the_one_in_row_major_order() {
    let folder = Folder::new();
    let shape = [2, 2, 3, 70, 90];
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count).map(|index| index as f32).collect();
    let row_major = NpyArray { shape: shape.to_vec(), data: NpyData::F32(values.clone()) };
    let mut member = encode(&row_major).unwrap();
    let start = member.len() - 4 * count;
    let at = member.windows(5).position(|window| window == b"False").unwrap();
    member[at..at + 5].copy_from_slice(b"True ");
    // Each value of the file by its indices, of which the first runs fastest.
    for stored in 0..count {
        let (mut rest, mut index, mut stride) = (stored, 0, count);
        for extent in shape {
            stride /= extent;
            index += rest % extent * stride;
            rest /= extent;
        }
        member[start + 4 * stored..start + 4 * stored + 4].copy_from_slice(&values[index].to_le_bytes());
    }
    with_member(&folder.path(), CompressionMethod::Deflated, "image_input", member);
    assert!(read(&folder.path()).unwrap().inputs.image_input == values);
}

#[test]
fn type_and_shape_are_judged_before_the_values_are_looked_at() {
    let judged = |shape: &[usize], spoil: &dyn Fn(&mut Vec<u8>)| {
        let folder = Folder::new();
        let data = NpyData::F32(vec![0.0; shape.iter().product()]);
        let mut member = encode(&NpyArray { shape: shape.to_vec(), data }).unwrap();
        spoil(&mut member);
        with_member(&folder.path(), CompressionMethod::Stored, "image_input", member);
        let mut bytes = std::fs::read(folder.path()).unwrap();
        // A value that does not have the checksum that the archive says, far behind the header.
        let start = bytes.windows(11).position(|window| window == b"image_input").unwrap();
        bytes[start + 30_000] ^= 1;
        std::fs::write(folder.path(), bytes).unwrap();
        read(&folder.path()).unwrap_err()
    };
    let damaged = judged(&[2, 2, 3, 40, 60], &|_| {});
    assert!(matches!(damaged, DatasetError::Array { .. }), "{damaged}");
    let shape = judged(&[2, 2, 4, 40, 60], &|_| {});
    assert!(matches!(shape, DatasetError::Shape { .. }), "{shape}");
    let dtype = judged(&[2, 2, 3, 40, 60], &|member| {
        let at = member.windows(3).position(|window| window == b"<f4").unwrap();
        member[at..at + 3].copy_from_slice(b"<c8");
    });
    assert!(matches!(dtype, DatasetError::Dtype { .. }), "{dtype}");
    let longer = judged(&[2, 2, 3, 40, 60], &|member| member.extend([0; 400]));
    assert!(longer.to_string().contains("takes 115200 bytes, but 115600 are there"), "{longer}");
}

#[test]
fn an_archive_of_too_many_members_is_refused() {
    let folder = Folder::new();
    let names: Vec<_> = (0..65).map(|index| format!("{index}.npy")).collect();
    let members: Vec<_> = names.iter().map(|name| (name.as_str(), Vec::new())).collect();
    write_members(&folder.path(), CompressionMethod::Stored, &members);
    let error = read(&folder.path()).unwrap_err().to_string();
    assert!(error.contains("65 members: at most 64"), "{error}");
}

#[test]
fn writing_leaves_the_old_file_when_it_fails_and_no_partial_file_ever() {
    let folder = Folder::new();
    write_batch(&folder.path(), &batch()).unwrap();
    let before = std::fs::read(folder.path()).unwrap();
    let wrong = [("proprio", NpyArray { shape: vec![3], data: NpyData::F32(vec![0.0; 2]) })];
    let error = write_npz(&folder.path(), &wrong).unwrap_err().to_string();
    assert!(error.contains("`proprio`"), "{error}");
    assert_eq!(std::fs::read(folder.path()).unwrap(), before);
    let files: Vec<_> = std::fs::read_dir(folder.0.path()).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");

    let nowhere = folder.0.path().join("absent/batch.npz");
    assert!(matches!(write_npz(&nowhere, &[]), Err(DatasetError::Io { .. })));
}

#[test]
fn a_written_file_may_be_read_by_whom_an_ordinary_one_may() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    write_batch(&folder.path(), &batch()).unwrap();
    let ordinary = folder.0.path().join("ordinary");
    std::fs::write(&ordinary, b"").unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&folder.path()), mode(&ordinary));
}

#[test]
fn the_same_batch_gives_the_same_bytes() {
    let folder = Folder::new();
    write_batch(&folder.path(), &batch()).unwrap();
    let first = std::fs::read(folder.path()).unwrap();
    write_batch(&folder.path(), &batch()).unwrap();
    assert_eq!(std::fs::read(folder.path()).unwrap(), first);
}

#[test]
fn calibration_batches_come_in_the_order_of_their_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let error = calibration_files(folder.path()).unwrap_err();
    assert!(matches!(error, DatasetError::NoBatches { .. }), "{error}");
    let names =
        ["calib_100000.npz", "calib_00002.npz", "calib_00010.npz", "calib_1.npz", "other.npz", "calib_0000a.npz"];
    for name in names {
        std::fs::write(folder.path().join(name), b"").unwrap();
    }
    let files = calibration_files(folder.path()).unwrap();
    let found: Vec<_> = files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(found, ["calib_00002.npz", "calib_00010.npz", "calib_100000.npz"]);
    assert!(matches!(calibration_files(&folder.path().join("absent")), Err(DatasetError::Io { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// A changed byte is noticed or harmless: what is accepted is still well-formed.
    #[test]
    fn corrupted_bytes_never_panic_and_what_is_accepted_is_well_formed(
        deflated in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in prop::option::weighted(0.2, any::<prop::sample::Index>()),
    ) {
        let folder = Folder::new();
        let method = if deflated { CompressionMethod::Deflated } else { CompressionMethod::Stored };
        let members: Vec<_> =
            arrays().into_iter().map(|(key, array)| (format!("{key}.npy"), encode(&array).unwrap())).collect();
        let members: Vec<_> = members.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
        write_members(&folder.path(), method, &members);

        let mut bytes = std::fs::read(folder.path()).unwrap();
        for (index, value) in changes {
            let length = bytes.len();
            bytes[index.index(length)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(folder.path(), bytes).unwrap();
        if let Ok(batch) = read_batch(&folder.path(), Limits { max_bytes: 1 << 20, max_members: 64 }) {
            prop_assert_eq!(batch.inputs.check(true), Ok(()));
            prop_assert!(batch.inputs.image_input.iter().all(|value| value.is_finite()));
        }
    }

    #[test]
    fn bytes_of_an_array_never_panic_the_decoder(
        text in "[{}()',: 0-9<>|=a-z_]{0,120}",
        body in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend_from_slice(&(text.len() as u16).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&body);
        let _ = xvla_ros::data::npy::decode(&bytes);
    }
}
