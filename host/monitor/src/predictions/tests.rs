//! Files of predictions, without the thread that writes them.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::sync::RwLock;

use berth_tensor::{DataType, NamedTensor, Tensor};

use super::file::{self, Opened, Table};
use super::folder::{compact, list, new_path, recover, retain};
use super::query::{Filter, Summary};
use super::recorder::Recorder;
use super::row::{Content, Prediction};
use super::spec::{Declared, PredictionsSpec};
use super::time::hour;

/// An hour in milliseconds, and one that is long over.
const HOUR: u64 = 3_600_000;
const NINE: u64 = 400_000 * HOUR;

fn row(ms: u64, number: u128, datatype: DataType) -> Prediction {
    let size = datatype.size().unwrap_or_default();
    let tensor = Tensor::new(datatype, vec![1, 2], vec![0; 2 * size]).unwrap();
    let inputs = vec![Content::Tensor(NamedTensor { name: "x".into(), tensor })];
    let id = u128::from(ms) << 80 | number;
    Prediction { id, endpoint: "e".into(), status: "ok", inputs, ..Prediction::default() }
}

fn write(folder: &Path, row: &Prediction) {
    let mut table = Table::new();
    assert!(table.push(row));
    file::write(&new_path(folder, &hour((row.id >> 80) as u64)), table).unwrap();
}

fn names(folder: &Path) -> Vec<String> {
    list(folder).into_iter().map(|part| part.name).collect()
}

/// The ids of a recorder's endpoint `e`.
fn ids(recorder: &Recorder) -> BTreeSet<u128> {
    let mut found = BTreeSet::new();
    let add = |group: Vec<Summary>| group.iter().for_each(|row| assert!(found.insert(row.id)));
    recorder.summaries("e", &Filter::default(), add).unwrap();
    found
}

#[test]
fn an_hour_that_is_over_is_one_file_for_each_kind_of_columns() {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("predictions/e");
    fs::create_dir_all(&folder).unwrap();
    let mut expected = BTreeSet::new();
    for number in 0..100 {
        let datatype = if number % 10 == 0 { DataType::Fp32 } else { DataType::Int64 };
        let row = row(NINE + number as u64, number, datatype);
        write(&folder, &row);
        expected.insert(row.id);
    }
    let late = row(NINE + HOUR, 0, DataType::Fp16);
    write(&folder, &late);
    let alone = RwLock::new(());
    // As long as the hour goes on, a few of the many are left.
    compact(&folder, NINE + 1000, &alone).unwrap();
    assert!(names(&folder).len() < 40, "{:?}", names(&folder));
    compact(&folder, NINE + HOUR + 30_000, &alone).unwrap();
    assert!(!names(&folder).contains(&format!("{}.parquet", hour(NINE))));
    compact(&folder, NINE + HOUR + 61_000, &alone).unwrap();
    let of_hour = names(&folder).iter().filter(|name| name.starts_with(&hour(NINE))).count();
    assert_eq!(of_hour, 2, "{:?}", names(&folder));
    assert_eq!(names(&folder).len(), 3);
    let recorder = Recorder::start(store.path(), 1 << 20).unwrap();
    expected.insert(late.id);
    assert_eq!(ids(&recorder), expected);
    let found = recorder.find("e", &expected.iter().copied().collect()).unwrap();
    assert_eq!(found.len(), expected.len());
    let found = recorder.get("e", late.id).unwrap().unwrap();
    let Content::Tensor(x) = &found.inputs[0] else { panic!("{found:?}") };
    assert_eq!((x.tensor.datatype(), x.tensor.shape()), (DataType::Fp16, &[1, 2][..]));
}

#[test]
fn a_crash_amid_a_merge_leaves_each_prediction_once() {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("predictions/e");
    fs::create_dir_all(&folder).unwrap();
    let rows: Vec<_> = (0..3).map(|n| row(NINE, n, DataType::Fp32)).collect();
    rows.iter().for_each(|row| write(&folder, row));
    let opened: Vec<_> =
        list(&folder).iter().map(|part| Opened::open(&part.path).unwrap()).collect();
    // In its place, and what it has replaced still there; and another that was not written to its end.
    file::merge(&new_path(&folder, &hour(NINE)), &opened).unwrap().place().unwrap();
    fs::write(folder.join(".half.partial"), b"PAR1").unwrap();
    assert_eq!(names(&folder).len(), 4);
    recover(&folder);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    let recorder = Recorder::start(store.path(), 1 << 20).unwrap();
    assert_eq!(ids(&recorder), rows.iter().map(|row| row.id).collect());
}

#[test]
fn what_is_kept_is_bounded_by_age_and_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for hours in 0..10 {
        write(folder.path(), &row(NINE + hours * HOUR, 0, DataType::Fp32));
    }
    let bytes = list(folder.path())[0].bytes;
    let alone = RwLock::new(());
    let kept = |keep: (u64, u64)| {
        retain(folder.path(), NINE + 9 * HOUR + 1, keep, &alone);
        names(folder.path()).iter().map(|name| name[..13].to_owned()).collect::<Vec<_>>()
    };
    let from = |first: u64| (first..10).map(|hours| hour(NINE + hours * HOUR)).collect::<Vec<_>>();
    assert_eq!(kept((100 * HOUR, u64::MAX)), from(0));
    assert_eq!(kept((6 * HOUR, u64::MAX)), from(3));
    assert_eq!(kept((6 * HOUR, 4 * bytes + bytes / 2)), from(6));
}

#[test]
fn columns_of_one_name_and_two_kinds_are_in_two_files() {
    let store = tempfile::tempdir().unwrap();
    let recorder = Recorder::start(store.path(), 1 << 20).unwrap();
    let spec = PredictionsSpec { inputs: super::Kept::Tensors, ..PredictionsSpec::default() };
    let declared = Declared::new(spec, &[("x".into(), DataType::Fp32)], &[]);
    let declared = std::sync::Arc::new(declared);
    let kinds = [DataType::Fp32, DataType::Int64, DataType::Fp32, DataType::Uint8];
    let rows: Vec<_> = (0..).zip(kinds).map(|(n, kind)| row(NINE, n, kind)).collect();
    rows.iter().for_each(|row| recorder.record(row.clone(), 0, &declared));
    // What is found is on the disk.
    assert_eq!(recorder.find("e", &HashSet::from([rows[1].id, 7])).unwrap().len(), 1);
    assert_eq!(names(&store.path().join("predictions/e")).len(), 3);
    assert_eq!(ids(&recorder), rows.iter().map(|row| row.id).collect());
    assert_eq!(recorder.find("e", &HashSet::from([rows[1].id, 7])).unwrap().len(), 1);
}

#[test]
fn tensors_come_back_as_they_were_recorded() {
    let store = tempfile::tempdir().unwrap();
    let folder = store.path().join("predictions/e");
    fs::create_dir_all(&folder).unwrap();
    let tensor = |datatype: DataType| match datatype.size() {
        None => Tensor::from_byte_strings(vec![2, 62], &["a", ""].repeat(62)).unwrap(),
        Some(size) => {
            // Finite in every datatype: of codes that are no numbers one is kept.
            let most = if datatype == DataType::Bool { 2 } else { 0x7c };
            let data: Vec<u8> = (0..124 * size).map(|at| (at * 37 % most) as u8).collect();
            Tensor::new(datatype, vec![2, 62], data).unwrap()
        }
    };
    for (number, datatype) in (0..).zip(DataType::ALL) {
        let named = NamedTensor { name: "x".into(), tensor: tensor(datatype) };
        let inputs = vec![Content::Tensor(named)];
        write(&folder, &Prediction { inputs, ..row(NINE, number, DataType::Fp32) });
    }
    let recorder = Recorder::start(store.path(), 1 << 20).unwrap();
    for (number, datatype) in (0..).zip(DataType::ALL) {
        let found = recorder.get("e", u128::from(NINE) << 80 | number).unwrap().unwrap();
        let Content::Tensor(x) = &found.inputs[0] else { panic!("{found:?}") };
        assert_eq!(x.tensor, tensor(datatype), "{datatype}");
    }
}
