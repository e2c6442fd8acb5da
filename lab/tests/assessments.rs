//! What assessments say of a trained model is what its outputs say: candidates ranked, answers decoded word by word.
#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use plateau_common::tasks::{Assessment, Input, Mark, Questions};
use plateau_lab::{TrainedModel, load_model};
use serde_json::json;
use support::{member, train};

/// The highest of some outputs, the first of equals.
fn highest(outputs: &[f64], among: impl Iterator<Item = usize>) -> usize {
    among
        .fold(None, |best: Option<usize>, class| match best {
            Some(best) if outputs[class] <= outputs[best] => Some(best),
            _ => Some(class),
        })
        .unwrap()
}

/// Outputs behind the last of some tokens.
fn last_outputs(model: &TrainedModel, tokens: &[u32]) -> Vec<f64> {
    let (tokens, length) = (tokens.to_vec(), tokens.len());
    let outputs = model.outputs(&Input::Tokens { tokens, length }).unwrap();
    outputs[outputs.len() / length * (length - 1)..].to_vec()
}

fn marks(model: &TrainedModel, assessment: &Assessment, longest: usize) -> Vec<Mark> {
    let Input::Ragged { tokens, ends, .. } = &assessment.batch.input else { panic!("sequences") };
    let starts: Vec<usize> = std::iter::once(0).chain(ends.iter().map(|end| *end as usize)).collect();
    match &assessment.questions {
        Questions::Ranked { candidates, questions } => questions
            .iter()
            .map(|question| {
                let row = question.row as usize;
                let start = *starts.iter().rfind(|start| **start <= row).unwrap();
                let outputs = last_outputs(model, &tokens[start..=row]);
                let said = highest(&outputs, candidates.iter().map(|candidate| *candidate as usize)) as u32;
                Mark { right: said == question.right, linear: question.linear.map(|linear| said == linear) }
            })
            .collect(),
        Questions::Decoded { prompts, most, end, .. } => (0..prompts.len())
            .map(|example| {
                let prompt = prompts[example] as usize;
                let mut own = tokens[starts[example]..starts[example] + prompt].to_vec();
                while own.len() - prompt < *most && own.len() <= longest {
                    let outputs = last_outputs(model, &own);
                    let word = highest(&outputs, 0..outputs.len()) as u32;
                    if word == *end {
                        break;
                    }
                    own.push(word);
                }
                model.examples().mark(assessment, example, &own[prompt..])
            })
            .collect(),
    }
}

#[test]
fn assessments_are_what_the_outputs_say() {
    for (kind, steps, longest) in
        [("question-formation", 150, 36), ("tense-inflection", 900, 30), ("dyck", 60, 256)]
    {
        let json = json!({
            "seed": 3,
            "task": {"kind": kind, "training-examples": 4000, "validation-examples": 30, "generalisation-examples": 30},
            "model": {"kind": "transformer", "layers": 2, "heads": 4, "dim": 32, "mlp-dim": 64, "norm": "post",
                "positions": "sinusoidal", "scaled-embedding": true, "read-out-bias": true, "initialisation": "murty"},
            "train": {"steps": steps, "batch": 16, "clip": 1.0, "optimizer": {"kind": "adamw", "lr": 3e-3},
                "schedule": {"kind": "linear-decay", "warmup": 0.1}},
            "evaluate": {"every": steps, "probes": []}
        });
        let scratch = tempfile::tempdir().unwrap();
        let recorder = train(&[member(json)], 2, scratch.path());
        let model = load_model(&recorder.checkpoints[&0].last().unwrap().1).unwrap();
        let values = &recorder.evaluations[&0].last().unwrap().values;
        let value = |name: &str| values.iter().find(|(own, _)| own == name).map(|(_, value)| *value);
        let mut shares = Vec::new();
        let examples = model.examples();
        for assessment in examples.assessments(steps) {
            let marks = marks(&model, &assessment, longest);
            let share = marks.iter().filter(|mark| mark.right).count() as f64 / marks.len() as f64;
            assert_eq!(value(&format!("{}_accuracy", assessment.name)), Some(share), "{kind}");
            let linear: Vec<bool> = marks.iter().filter_map(|mark| mark.linear).collect();
            let count = linear.iter().filter(|linear| **linear).count();
            let expected = (!linear.is_empty()).then(|| count as f64 / linear.len() as f64);
            assert_eq!(value(&format!("{}_linear_rule", assessment.name)), expected, "{kind}");
            shares.push(share);
        }
        assert!(shares.iter().any(|share| *share > 0.0 && *share < 1.0), "{kind}: {shares:?} tell little");
    }
}
