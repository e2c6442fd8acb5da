//! When a trial is measured, and by which probes.

use serde::Serialize;

use super::GridConfig;
use crate::fields::{ConfigError, ConfigResult, Fields, unknown_word};
use crate::limits;
use crate::node::Value;
use crate::tasks::TaskConfig;

/// What may be measured inside a model, beside train and test loss and accuracy, which always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ProbeKind {
    /// `weight_norm` (all parameters) and `weight_norm/<part>`.
    WeightNorm,
    /// `gradient_norm` of the last update, before clipping.
    GradientNorm,
    /// `attention_entropy/<layer>` in nats, mean over heads and read positions.
    AttentionEntropy,
    /// `logit_scale`: standard deviation of the outputs over classes (mean over examples).
    LogitScale,
    /// `restricted_loss`, `excluded_loss`, `key_frequencies` and `embedding_gini` (Nanda et al. 2023), for modular
    /// addition only.
    Fourier,
    /// `weight_norm_per_layer/reference`, `weight_norm_per_layer/trained` and `weight_norm_per_root_layer` (Murty et al. 2023).
    WeightNormPerLayer,
    /// `attention_sparsity`, `attention_sparsity/reference` and `attention_sparsity/mean` (Murty et al. 2023), for tasks with sentences.
    AttentionSparsity,
    /// `t_score` and its forms, `t_parseval` and its baselines (Murty et al. 2023), for tasks with sentences.
    TreeProjection,
}

impl ProbeKind {
    /// Every probe by the name study files use.
    pub const ALL: [(&'static str, ProbeKind); 8] = [
        ("weight-norm", ProbeKind::WeightNorm),
        ("gradient-norm", ProbeKind::GradientNorm),
        ("attention-entropy", ProbeKind::AttentionEntropy),
        ("logit-scale", ProbeKind::LogitScale),
        ("fourier", ProbeKind::Fourier),
        ("weight-norm-per-layer", ProbeKind::WeightNormPerLayer),
        ("attention-sparsity", ProbeKind::AttentionSparsity),
        ("tree-projection", ProbeKind::TreeProjection),
    ];

    /// Whether it looks at the task's sentences.
    pub fn reads_sentences(self) -> bool {
        matches!(self, ProbeKind::AttentionSparsity | ProbeKind::TreeProjection)
    }
}

/// `[evaluate]`. Steps 0 and the last are always evaluated.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct EvaluateConfig {
    /// Evaluate every so many steps. Default: not.
    pub every: Option<u64>,
    /// Evaluate at this many log-spaced steps per factor of ten; default 10 where `every` is absent, else not.
    pub per_decade: Option<u32>,
    /// Probes to compute at each evaluation, sorted, each once. Default: `weight-norm`, `gradient-norm`.
    pub probes: Vec<ProbeKind>,
    /// Sentences of the training data that probes look at. Default 1000.
    #[serde(skip_serializing_if = "is_default")]
    pub sentences: usize,
    /// Exact match over the sizes of problems. Default: not measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grid: Option<GridConfig>,
}

/// Default of [`EvaluateConfig::sentences`], which is left out of the canonical form.
const SENTENCES: usize = 1000;

fn is_default(sentences: &usize) -> bool {
    *sentences == SENTENCES
}

impl EvaluateConfig {
    /// Reads `[evaluate]`; an absent table means the defaults.
    pub fn read(fields: Option<Fields<'_>>, task: &TaskConfig) -> ConfigResult<Self> {
        let mut config = EvaluateConfig {
            every: None,
            per_decade: Some(10),
            probes: vec![ProbeKind::WeightNorm, ProbeKind::GradientNorm],
            sentences: SENTENCES,
            grid: None,
        };
        let Some(mut fields) = fields else { return Ok(config) };
        config.every = fields.integer("every", 1..=u64::MAX >> 1)?;
        let per_decade = fields.integer("per-decade", 1..=1000)?;
        config.per_decade =
            if per_decade.is_some() || config.every.is_some() { per_decade } else { Some(10) };
        if let Some(items) = fields.array("probes")? {
            config.probes.clear();
            for item in items {
                let error = |problem| ConfigError::new(fields.path_of("probes"), item.location, problem);
                let Value::Text(word) = &item.value else {
                    return Err(error(format!("expected a probe's name, found {}", item.value.type_name())));
                };
                let Some((_, probe)) = ProbeKind::ALL.iter().find(|(known, _)| known == word) else {
                    return Err(unknown_word(
                        error(format!("unknown probe `{word}`")),
                        word,
                        &ProbeKind::ALL,
                    ));
                };
                if *probe == ProbeKind::Fourier && !task.is_modular_addition() {
                    return Err(error("the `fourier` probe is defined for modular addition only".to_owned())
                        .suggest("use task.kind = \"modular\" with operation = \"x+y\", or drop the probe"));
                }
                if probe.reads_sentences() && !task.has_sentences() {
                    return Err(error(format!(
                        "the probe `{word}` looks at sentences, and the task has none"
                    ))
                    .suggest("use a task made of sentences, such as question-formation, or drop the probe"));
                }
                config.probes.push(*probe);
            }
            config.probes.sort_unstable();
            config.probes.dedup();
        }
        if let Some(sentences) = fields.integer("sentences", 1..=limits::MAX_EVALUATION_EXAMPLES)? {
            if !config.probes.iter().any(|probe| probe.reads_sentences()) {
                return Err(fields
                    .error("sentences", "no probe looks at sentences")
                    .suggest("add `attention-sparsity` or `tree-projection` to `probes`, or drop the key"));
            }
            config.sentences = sentences;
        }
        config.grid = match fields.table("grid")? {
            Some(grid) => Some(GridConfig::read(grid, task)?),
            None => None,
        };
        fields.finish()?;
        Ok(config)
    }

    /// Whether the state after `step` updates is evaluated in a run of `steps`.
    pub fn is_due(&self, step: u64, steps: u64) -> bool {
        if step == 0 || step == steps {
            return true;
        }
        let every = |every: Option<u64>| every.is_some_and(|every| step.is_multiple_of(every));
        if every(self.every) || every(self.grid.as_ref().and_then(|grid| grid.every)) {
            return true;
        }
        // `step` is due if it is round(10^(i/per_decade)) for some whole i.
        self.per_decade.is_some_and(|per_decade| {
            let per_decade = f64::from(per_decade);
            let index = ((step as f64).log10() * per_decade).round();
            [index - 1.0, index, index + 1.0]
                .into_iter()
                .any(|index| index >= 0.0 && 10f64.powf(index / per_decade).round() as u64 == step)
        })
    }

    /// The first step after `step` that is evaluated whatever the run's length; `None`: none below 2⁶³.
    pub fn next_due(&self, step: u64) -> Option<u64> {
        let after = |every: u64| (step / every).checked_add(1)?.checked_mul(every);
        let by_grid = self.grid.as_ref().and_then(|grid| grid.every).and_then(after);
        let by_steps = self.every.and_then(after);
        let by_decades = self.per_decade.and_then(|per_decade| {
            let per_decade = f64::from(per_decade);
            // One early, because the step itself was rounded.
            let mut index = ((step.max(1) as f64).log10() * per_decade).floor() - 1.0;
            loop {
                let next = 10f64.powf(index.max(0.0) / per_decade).round();
                if next > step as f64 {
                    return (next < 9.2e18).then_some(next as u64);
                }
                index += 1.0;
            }
        });
        by_steps.into_iter().chain(by_grid).chain(by_decades).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_spaced_steps_are_exact_and_include_both_ends() {
        let config = EvaluateConfig {
            every: None,
            per_decade: Some(4),
            probes: Vec::new(),
            sentences: SENTENCES,
            grid: None,
        };
        let due: Vec<u64> = (0..=1200).filter(|step| config.is_due(*step, 1200)).collect();
        assert_eq!(due, [0, 1, 2, 3, 6, 10, 18, 32, 56, 100, 178, 316, 562, 1000, 1200]);
    }

    #[test]
    fn the_next_step_that_is_due_is_the_next_of_those_that_are() {
        for (every, per_decade) in
            [(None, Some(4)), (Some(7), None), (Some(50), Some(10)), (None, Some(1000))]
        {
            let config =
                EvaluateConfig { every, per_decade, probes: Vec::new(), sentences: SENTENCES, grid: None };
            let by_question: Vec<u64> = (1..=3000).filter(|step| config.is_due(*step, u64::MAX)).collect();
            let next = |step: &u64| config.next_due(*step);
            let one_by_one: Vec<u64> =
                std::iter::successors(next(&0), next).take_while(|step| *step <= 3000).collect();
            assert_eq!(one_by_one, by_question, "{config:?}");
        }
    }

    #[test]
    fn every_and_log_spacing_are_united() {
        let config = EvaluateConfig {
            every: Some(50),
            per_decade: Some(1),
            probes: Vec::new(),
            sentences: SENTENCES,
            grid: None,
        };
        let due: Vec<u64> = (0..=160).filter(|step| config.is_due(*step, 160)).collect();
        assert_eq!(due, [0, 1, 10, 50, 100, 150, 160]);
    }
}
