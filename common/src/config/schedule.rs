//! Learning-rate schedules: a multiplier of the peak rate as a pure function of the step.

use serde::Serialize;

use super::Unit;
use crate::fields::{ConfigResult, Fields};

/// The shape after warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// 1 for ever.
    Constant,
    /// Straight line from 1 at the end of warm-up to `final` at `steps`.
    LinearDecay,
    /// Half a cosine from 1 at the end of warm-up to `final` at `steps`.
    Cosine,
    /// `sqrt(w / s)` for s beyond the warm-up length w (Vaswani et al. 2017, 5.3; w is at least 1).
    InverseSquareRoot,
    /// 1 until `cooldown` steps before the end, then a straight line to `final`.
    Trapezoid,
}

/// `train.schedule`: `{ kind = "cosine", warmup = 100, final = 0.02 }`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Schedule {
    /// The shape after warm-up.
    pub kind: ScheduleKind,
    /// Steps of linear warm-up: update number s (from 1) uses s / warmup of the peak while s < warmup. A number below 1 in a
    /// study file is a share of the budget. Default 0.
    pub warmup: u64,
    /// Multiplier at the last step of a decaying schedule. Default 0.
    #[serde(rename = "final")]
    pub final_fraction: f64,
    /// Trapezoid: steps of the final straight line, or a share of the budget. Default 0.
    pub cooldown: u64,
    /// What steps are here: `"updates"`, or `"samples"`, so that a growing batch counts as it costs. Default `"updates"`.
    #[serde(skip_serializing_if = "are_updates")]
    pub unit: Unit,
}

fn are_updates(unit: &Unit) -> bool {
    *unit == Unit::Updates
}

impl Default for Schedule {
    fn default() -> Self {
        Schedule {
            kind: ScheduleKind::Constant,
            warmup: 0,
            final_fraction: 0.0,
            cooldown: 0,
            unit: Unit::Updates,
        }
    }
}

/// A length of time: a whole number, or a share of `total`.
fn length(fields: &mut Fields<'_>, key: &'static str, total: u64) -> ConfigResult<Option<u64>> {
    let Some(found) = fields.number(key, 0.0..=(1u64 << 62) as f64)? else { return Ok(None) };
    if found > 0.0 && found < 1.0 {
        return Ok(Some((found * total as f64).round() as u64));
    }
    fields.integer(key, 0..=u64::MAX >> 1)
}

impl Schedule {
    /// Reads `train.schedule` for a budget of `steps` updates with so many examples in all; absent means constant.
    pub fn read(fields: Option<Fields<'_>>, steps: u64, samples: u64) -> ConfigResult<Self> {
        let default = Self::default();
        let Some(mut fields) = fields else { return Ok(default) };
        let kinds = [
            ("constant", ScheduleKind::Constant),
            ("linear-decay", ScheduleKind::LinearDecay),
            ("cosine", ScheduleKind::Cosine),
            ("inverse-square-root", ScheduleKind::InverseSquareRoot),
            ("trapezoid", ScheduleKind::Trapezoid),
        ];
        let unit = fields.choice("unit", &Unit::WORDS)?.unwrap_or(default.unit);
        let total = if unit == Unit::Updates { steps } else { samples };
        let schedule = Schedule {
            kind: fields.choice("kind", &kinds)?.unwrap_or(default.kind),
            warmup: length(&mut fields, "warmup", total)?.unwrap_or(default.warmup),
            final_fraction: fields.number("final", 0.0..=1.0)?.unwrap_or(default.final_fraction),
            cooldown: length(&mut fields, "cooldown", total)?.unwrap_or(default.cooldown),
            unit,
        };
        if schedule.depends_on_budget() && schedule.warmup.saturating_add(schedule.cooldown) > total {
            let word = if unit == Unit::Updates { "steps" } else { "samples" };
            return Err(fields
                .error(
                    "warmup",
                    format!("warm-up and cool-down are longer than the {total} {word} of training"),
                )
                .suggest("shorten them or raise `train.steps`"));
        }
        fields.finish()?;
        Ok(schedule)
    }

    /// Whether the multiplier at a step depends on the total number of steps. Where it does not, a longer budget
    /// continues the same trial (the number of steps is no part of its identity).
    pub fn depends_on_budget(&self) -> bool {
        !matches!(self.kind, ScheduleKind::Constant | ScheduleKind::InverseSquareRoot)
    }

    /// The multiplier of the peak learning rate for update number `update` (from 1) of `steps`.
    pub fn multiplier(&self, update: u64, steps: u64) -> f64 {
        if update < self.warmup {
            return update as f64 / self.warmup as f64;
        }
        let progress = |from: u64, to: u64| {
            if to <= from { 1.0 } else { ((update - from) as f64 / (to - from) as f64).clamp(0.0, 1.0) }
        };
        let last = self.final_fraction;
        match self.kind {
            ScheduleKind::Constant => 1.0,
            ScheduleKind::LinearDecay => 1.0 + (last - 1.0) * progress(self.warmup, steps),
            ScheduleKind::Cosine => {
                let angle = std::f64::consts::PI * progress(self.warmup, steps);
                last + (1.0 - last) * 0.5 * (1.0 + angle.cos())
            }
            ScheduleKind::InverseSquareRoot => {
                let warmup = self.warmup.max(1);
                (warmup as f64 / update.max(warmup) as f64).sqrt()
            }
            ScheduleKind::Trapezoid => {
                let start = steps.saturating_sub(self.cooldown);
                if update <= start { 1.0 } else { 1.0 + (last - 1.0) * progress(start, steps) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup: u64, final_fraction: f64, cooldown: u64) -> Schedule {
        Schedule { kind, warmup, final_fraction, cooldown, unit: Unit::Updates }
    }

    fn close(found: f64, expected: f64) {
        assert!((found - expected).abs() < 1e-12, "{found} is not {expected}");
    }

    #[test]
    fn warm_up_is_linear_and_reaches_the_peak_at_its_last_step() {
        let constant = schedule(ScheduleKind::Constant, 10, 0.0, 0);
        close(constant.multiplier(1, 100), 0.1);
        close(constant.multiplier(9, 100), 0.9);
        close(constant.multiplier(10, 100), 1.0);
        close(constant.multiplier(100, 100), 1.0);
    }

    #[test]
    fn decays_start_at_the_peak_and_end_at_the_final_fraction() {
        for kind in [ScheduleKind::LinearDecay, ScheduleKind::Cosine] {
            let decay = schedule(kind, 10, 0.2, 0);
            close(decay.multiplier(10, 110), 1.0);
            close(decay.multiplier(60, 110), 0.6);
            close(decay.multiplier(110, 110), 0.2);
        }
    }

    #[test]
    fn inverse_square_root_halves_at_four_times_the_warm_up() {
        let decay = schedule(ScheduleKind::InverseSquareRoot, 100, 0.0, 0);
        close(decay.multiplier(50, 1), 0.5);
        close(decay.multiplier(100, 1), 1.0);
        close(decay.multiplier(400, 1), 0.5);
    }

    #[test]
    fn trapezoid_is_flat_then_falls_in_a_straight_line() {
        let trapezoid = schedule(ScheduleKind::Trapezoid, 10, 0.0, 20);
        close(trapezoid.multiplier(5, 100), 0.5);
        close(trapezoid.multiplier(80, 100), 1.0);
        close(trapezoid.multiplier(90, 100), 0.5);
        close(trapezoid.multiplier(100, 100), 0.0);
    }
}
