//! Measuring how fast this host trains a shape, outside of any sweep: for predictions.

use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, bail};
use plateau_common::throughput::ThroughputCurve;
use plateau_proto::convert;
use plateau_proto::v1::{trainer_command, trainer_event};

use crate::child::TrainerChild;
use crate::machine::Trainer as _;

/// What a measurement of one shape on one device found.
#[derive(Clone, Debug, PartialEq)]
pub struct Measured {
    /// Speed by cohort size.
    pub curve: ThroughputCurve,
    /// Seconds that evaluating one replica takes.
    pub evaluation_seconds: f64,
    /// Seconds from the command to the first update.
    pub setup_seconds: f64,
}

/// Has trainer children of `program` measure shapes: `devices` of them at the same time, as agents of a sweep would
/// train. Returns for each shape the average over the children, and the seconds that starting a child took.
///
/// # Errors
/// When a trainer cannot be started, dies, or cannot train a shape at all.
pub async fn measure(
    program: &Path,
    devices: &[String],
    shapes: Vec<trainer_command::Calibrate>,
) -> anyhow::Result<(Vec<Measured>, f64)> {
    let began = Instant::now();
    let mut tasks = Vec::with_capacity(devices.len());
    for (child, device) in devices.iter().enumerate() {
        let (program, device, mut shapes) = (PathBuf::from(program), device.clone(), shapes.clone());
        for shape in &mut shapes {
            // They train the same trials, whose checkpoints have the same names.
            let own = Path::new(&shape.scratch).join(child.to_string());
            std::fs::create_dir_all(&own).with_context(|| format!("making the folder {}", own.display()))?;
            shape.scratch = own.to_string_lossy().into_owned();
        }
        tasks.push(tokio::spawn(async move { measure_on(&program, &device, shapes, began).await }));
    }
    let mut found: Vec<Vec<Measured>> = Vec::with_capacity(tasks.len());
    let mut start_seconds = 0.0_f64;
    for task in tasks {
        let (measured, seconds) = task.await.context("waiting for a measurement")??;
        start_seconds = start_seconds.max(seconds);
        found.push(measured);
    }
    let average = |index: usize| -> anyhow::Result<Measured> {
        let each: Vec<&Measured> = found.iter().filter_map(|measured| measured.get(index)).collect();
        let mean = |pick: &dyn Fn(&Measured) -> f64| {
            each.iter().map(|measured| pick(measured)).sum::<f64>() / each.len().max(1) as f64
        };
        let first = each.first().context("no device was given")?;
        // Sizes that every child measured.
        let sizes = first.curve.points().map(|(size, _)| size).filter(|size| {
            each.iter().all(|measured| measured.curve.points().any(|(known, _)| known == *size))
        });
        let rate = |size: u32| (size, mean(&|measured| measured.curve.rate(size).unwrap_or(0.0)));
        Ok(Measured {
            curve: ThroughputCurve::new(sizes.map(rate)).map_err(anyhow::Error::msg)?,
            evaluation_seconds: mean(&|measured| measured.evaluation_seconds),
            setup_seconds: mean(&|measured| measured.setup_seconds),
        })
    };
    Ok(((0..shapes.len()).map(average).collect::<anyhow::Result<_>>()?, start_seconds))
}

async fn measure_on(
    program: &Path,
    device: &str,
    shapes: Vec<trainer_command::Calibrate>,
    began: Instant,
) -> anyhow::Result<(Vec<Measured>, f64)> {
    let folder = shapes.first().map_or_else(std::env::temp_dir, |shape| PathBuf::from(&shape.scratch));
    let mut child = TrainerChild::start(program, &folder, None)?;
    let mut measured = Vec::with_capacity(shapes.len());
    match child.event().await.and_then(|event| event.body) {
        Some(trainer_event::Body::Ready(_)) => {}
        _ => bail!("{}", Box::new(child).obituary().await.0),
    }
    let start_seconds = began.elapsed().as_secs_f64();
    for shape in shapes {
        let shape = trainer_command::Calibrate { device: device.to_owned(), ..shape };
        child.command(trainer_command::Body::Calibrate(shape)).await?;
        match child.event().await.and_then(|event| event.body) {
            Some(trainer_event::Body::Calibrated(found)) => measured.push(read(found)?),
            _ => bail!("{}", Box::new(child).obituary().await.0),
        }
    }
    Ok((measured, start_seconds))
}

/// What a trainer answered.
pub fn read(found: trainer_event::Calibrated) -> anyhow::Result<Measured> {
    if !found.error.is_empty() {
        bail!("measuring the speed of a shape: {}", found.error);
    }
    Ok(Measured {
        curve: convert::throughput("points", found.points)?,
        evaluation_seconds: found.evaluation_seconds,
        setup_seconds: found.setup_seconds,
    })
}
