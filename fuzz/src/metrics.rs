//! Chunks of metrics: as they arrive, as they are stored, as curves are made of them.

use arbitrary::{Arbitrary, Unstructured};
use plateau_common::metrics::{MetricsChunk, curves};
use plateau_coordinator::wire;
use plateau_proto::{convert, v1};
use prost::Message;

use crate::short;

#[derive(Arbitrary, Debug)]
struct Chunk {
    steps: Vec<u8>,
    columns: Vec<(u8, Vec<f64>, Vec<u8>)>,
}

/// One chunk: the first byte says whether the rest is stored bytes, a message, or the parts of one.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 3 {
        0 => match wire::stored_chunk_with_digest(rest) {
            Ok((chunk, _)) => take(chunk),
            Err(error) => short(error),
        },
        1 => {
            if let Ok(chunk) = v1::MetricsChunk::decode(rest) {
                take(chunk);
            }
        }
        _ => {
            let Ok(parts) = Chunk::arbitrary(&mut Unstructured::new(rest)) else { return };
            take(message(parts));
        }
    }
}

/// Parts as a message that is nearly right: steps that increase, columns of their length.
fn message(parts: Chunk) -> v1::MetricsChunk {
    let mut step = 0;
    let mut steps = Vec::new();
    for gap in parts.steps {
        step += u64::from(gap);
        steps.push(step);
    }
    let column = |(name, mut values, missing): (u8, Vec<f64>, Vec<u8>)| {
        if name < 250 {
            values.resize(steps.len(), f64::NAN);
        }
        let missing = missing.into_iter().map(u32::from).collect();
        v1::MetricColumn { name: format!("metric-{}", name % 50), values, missing }
    };
    let columns = parts.columns.into_iter().map(column).collect();
    v1::MetricsChunk { steps, columns }
}

fn take(chunk: v1::MetricsChunk) {
    let chunk = match convert::metrics_chunk("metrics", chunk) {
        Ok(chunk) => chunk,
        Err(error) => return short(error),
    };
    let bytes = convert::metrics_chunk_to_wire(&chunk).encode_to_vec();
    let Ok(again) = v1::MetricsChunk::decode(bytes.as_slice()) else {
        panic!("our own message is malformed")
    };
    let Ok(again) = convert::metrics_chunk("metrics", again) else { panic!("our own chunk is refused") };
    assert_eq!(convert::metrics_chunk_to_wire(&again).encode_to_vec(), bytes, "not the canonical form");
    let points: usize = curves([&chunk]).values().map(|series| series.steps.len()).sum();
    let measured = chunk.columns.len() * chunk.steps.len() - chunk.missing.len();
    assert_eq!(points, measured, "points were lost or made up");
    let steps = chunk.steps.len();
    let evaluations = chunk.clone().into_evaluations();
    assert_eq!(evaluations.len(), steps);
    assert_eq!(evaluations.iter().map(|evaluation| evaluation.values.len()).sum::<usize>(), measured);
    let rebuilt = MetricsChunk::from_evaluations(&evaluations);
    assert_eq!(rebuilt.validate(), Ok(()));
}
