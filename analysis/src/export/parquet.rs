//! `trials.parquet` (one row per trial) and `metrics.parquet` (one row per trial, metric and step).

use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, Repetition, Type as PhysicalType};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::Type;
use plateau_common::results::{Parameter, TrialRecord};

use super::metrics;
use crate::analyses::population::{final_value, last_evaluation};
use crate::cells::Dataset;

/// Rows per row group, which bounds what a reader must hold at once.
const ROWS_PER_GROUP: usize = 1 << 20;

/// Why a table could not be written.
#[derive(Debug, thiserror::Error)]
#[error("writing the Parquet table `{table}`: {cause}")]
pub struct ExportError {
    table: &'static str,
    cause: ParquetError,
}

/// One column; an absent value is null.
enum Column {
    Text(Vec<Option<ByteArray>>),
    Real(Vec<Option<f64>>),
    Whole(Vec<Option<i64>>),
    Switch(Vec<Option<bool>>),
}

fn text(value: &str) -> ByteArray {
    ByteArray::from(value.as_bytes().to_vec())
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One row per trial: `trial` (its id), `seed`, `state`, `last_step`, `budget`, `diverged_at`, `train_seconds`, every
/// parameter under its dotted path (a whole number where all values are whole, else a number, a switch, or text where
/// kinds differ), `final.step` (of the last evaluation), and `final.<metric>`.
pub fn trials_parquet(data: &Dataset) -> Result<Vec<u8>, ExportError> {
    let trials: Vec<&TrialRecord> = data.trials().collect();
    let of = |value: &dyn Fn(&TrialRecord) -> Option<i64>| {
        Column::Whole(trials.iter().map(|trial| value(trial)).collect())
    };
    let mut columns = vec![
        ("trial".to_owned(), Column::Text(trials.iter().map(|trial| Some(text(&trial.id))).collect())),
        ("seed".to_owned(), of(&|trial| Some(whole(trial.seed)))),
        (
            "state".to_owned(),
            Column::Text(trials.iter().map(|trial| Some(text(trial.state.name()))).collect()),
        ),
        ("last_step".to_owned(), of(&|trial| Some(whole(trial.last_step)))),
        ("budget".to_owned(), of(&|trial| Some(whole(trial.budget)))),
        ("diverged_at".to_owned(), of(&|trial| trial.diverged_at.map(whole))),
        (
            "train_seconds".to_owned(),
            Column::Real(trials.iter().map(|trial| Some(trial.train_seconds)).collect()),
        ),
    ];
    let mut names: Vec<&str> =
        trials.iter().flat_map(|trial| trial.parameters.keys()).map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    // The seed has a whole-number column already.
    for name in names.into_iter().filter(|name| *name != "seed") {
        columns.push((name.to_owned(), parameter(&trials, name)));
    }
    columns.push(("final.step".to_owned(), of(&|trial| last_evaluation(trial).map(whole))));
    for metric in metrics(data) {
        let values =
            trials.iter().map(|trial| trial.series.contains_key(metric).then(|| final_value(trial, metric)));
        columns.push((format!("final.{metric}"), Column::Real(values.collect())));
    }
    write("trials", &columns, trials.len()).map_err(|cause| ExportError { table: "trials", cause })
}

/// One row per trial, metric and step: `trial`, `metric`, `step`, `value` (NaN and infinities as measured).
pub fn metrics_parquet(data: &Dataset) -> Result<Vec<u8>, ExportError> {
    let (mut trial_ids, mut names, mut steps, mut values) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for trial in data.trials() {
        let id = text(&trial.id);
        for (metric, curve) in &trial.series {
            let name = text(metric);
            for (step, value) in curve.steps.iter().zip(&curve.values) {
                // Cloning shares the bytes.
                trial_ids.push(Some(id.clone()));
                names.push(Some(name.clone()));
                steps.push(Some(whole(*step)));
                values.push(Some(*value));
            }
        }
    }
    let rows = steps.len();
    let columns = [
        ("trial".to_owned(), Column::Text(trial_ids)),
        ("metric".to_owned(), Column::Text(names)),
        ("step".to_owned(), Column::Whole(steps)),
        ("value".to_owned(), Column::Real(values)),
    ];
    write("metrics", &columns, rows).map_err(|cause| ExportError { table: "metrics", cause })
}

fn parameter(trials: &[&TrialRecord], name: &str) -> Column {
    let values: Vec<Option<&Parameter>> = trials.iter().map(|trial| trial.parameters.get(name)).collect();
    let present = || values.iter().flatten();
    if present().all(|value| matches!(value, Parameter::Number(_))) {
        let numbers: Vec<Option<f64>> =
            values.iter().map(|value| value.and_then(Parameter::as_number)).collect();
        // Beyond 2^53 a number read as a real no longer says which whole number was meant.
        let is_whole = |number: &f64| number.fract() == 0.0 && number.abs() <= 9_007_199_254_740_992.0;
        return if numbers.iter().flatten().all(is_whole) {
            Column::Whole(numbers.iter().map(|number| number.map(|number| number as i64)).collect())
        } else {
            Column::Real(numbers)
        };
    }
    if present().all(|value| matches!(value, Parameter::Bool(_))) {
        let switch = |value: &Option<&Parameter>| match value {
            Some(Parameter::Bool(on)) => Some(*on),
            _ => None,
        };
        return Column::Switch(values.iter().map(switch).collect());
    }
    Column::Text(values.iter().map(|value| value.map(|value| text(&value.to_string()))).collect())
}

fn schema(name: &str, columns: &[(String, Column)]) -> Result<Type, ParquetError> {
    let fields = columns
        .iter()
        .map(|(name, column)| {
            let (physical, converted) = match column {
                Column::Text(_) => (PhysicalType::BYTE_ARRAY, ConvertedType::UTF8),
                Column::Real(_) => (PhysicalType::DOUBLE, ConvertedType::NONE),
                Column::Whole(_) => (PhysicalType::INT64, ConvertedType::NONE),
                Column::Switch(_) => (PhysicalType::BOOLEAN, ConvertedType::NONE),
            };
            Type::primitive_type_builder(name, physical)
                .with_repetition(Repetition::OPTIONAL)
                .with_converted_type(converted)
                .build()
                .map(Arc::new)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Type::group_type_builder(name).with_fields(fields).build()
}

fn write(name: &str, columns: &[(String, Column)], rows: usize) -> Result<Vec<u8>, ParquetError> {
    let schema = Arc::new(schema(name, columns)?);
    let properties = Arc::new(WriterProperties::builder().set_compression(Compression::SNAPPY).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties)?;
    let mut start = 0;
    while start < rows {
        let end = (start + ROWS_PER_GROUP).min(rows);
        let mut group = writer.next_row_group()?;
        for (_, column) in columns {
            match column {
                Column::Text(values) => write_column::<ByteArrayType>(&mut group, values.get(start..end))?,
                Column::Real(values) => write_column::<DoubleType>(&mut group, values.get(start..end))?,
                Column::Whole(values) => write_column::<Int64Type>(&mut group, values.get(start..end))?,
                Column::Switch(values) => write_column::<BoolType>(&mut group, values.get(start..end))?,
            }
        }
        group.close()?;
        start = end;
    }
    writer.close()?;
    Ok(bytes)
}

fn write_column<T: DataType>(
    group: &mut SerializedRowGroupWriter<'_, &mut Vec<u8>>,
    values: Option<&[Option<T::T>]>,
) -> Result<(), ParquetError> {
    let values = values.unwrap_or_default();
    let levels: Vec<i16> = values.iter().map(|value| i16::from(value.is_some())).collect();
    let present: Vec<T::T> = values.iter().flatten().cloned().collect();
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(&present, Some(&levels), None)?;
        column.close()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::{Field, Row};

    use super::*;
    use crate::fixture::{grokking, trial, with_curve};

    fn rows(bytes: Vec<u8>) -> Vec<Row> {
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).unwrap();
        reader.get_row_iter(None).unwrap().map(|row| row.unwrap()).collect()
    }

    fn field<'r>(row: &'r Row, name: &str) -> &'r Field {
        row.get_column_iter()
            .find(|(column, _)| *column == name)
            .unwrap_or_else(|| panic!("no column {name}"))
            .1
    }

    #[test]
    fn trials_read_back_with_their_parameters_and_final_metrics() {
        let mut records = grokking(2);
        records[0].parameters.insert("model.tied".to_owned(), Parameter::Bool(true));
        records[1].parameters.insert("task.kind".to_owned(), Parameter::Text("modular".to_owned()));
        records[1].diverged_at = Some(77);
        records[1].parameters.insert("train.optimizer.weight-decay".to_owned(), Parameter::Number(0.5));
        let rows = rows(trials_parquet(&Dataset::new(&records, &[])).unwrap());
        assert_eq!(rows.len(), 4);
        let first =
            rows.iter().find(|row| *field(row, "trial") == Field::Str(records[0].id.clone())).unwrap();
        assert_eq!(*field(first, "train.optimizer.weight-decay"), Field::Double(0.0));
        assert_eq!(*field(first, "model.dim"), Field::Long(128));
        assert_eq!(*field(first, "final.step"), Field::Long(10_000));
        assert_eq!(*field(first, "model.tied"), Field::Bool(true));
        assert_eq!(*field(first, "task.kind"), Field::Null);
        assert_eq!(*field(first, "seed"), Field::Long(0));
        assert_eq!(*field(first, "state"), Field::Str("completed".to_owned()));
        assert_eq!(*field(first, "final.test_accuracy"), Field::Double(0.05));
        assert_eq!(*field(first, "diverged_at"), Field::Null);
        let second =
            rows.iter().find(|row| *field(row, "trial") == Field::Str(records[1].id.clone())).unwrap();
        assert_eq!(*field(second, "diverged_at"), Field::Long(77));
    }

    #[test]
    fn metrics_read_back_long_with_nan_and_infinity() {
        let records =
            [with_curve(trial(0, &[]), "test_loss", &[(0, 1.5), (7, f64::NAN), (9, f64::INFINITY)])];
        let rows = rows(metrics_parquet(&Dataset::new(&records, &[])).unwrap());
        let steps: Vec<&Field> = rows.iter().map(|row| field(row, "step")).collect();
        assert_eq!(steps, [&Field::Long(0), &Field::Long(7), &Field::Long(9)]);
        assert_eq!(*field(&rows[0], "metric"), Field::Str("test_loss".to_owned()));
        assert!(matches!(field(&rows[1], "value"), Field::Double(value) if value.is_nan()));
        assert_eq!(*field(&rows[2], "value"), Field::Double(f64::INFINITY));
    }

    #[test]
    fn empty_tables_are_valid_files() {
        let data = Dataset::new(&[], &[]);
        assert!(rows(trials_parquet(&data).unwrap()).is_empty());
        assert!(rows(metrics_parquet(&data).unwrap()).is_empty());
    }
}
