//! Assessments of one replica: questions that its task marks by a rule of its own.
//!
//! Greedy decoding reads the model's own words, one after another. Most of them are the right ones, so the right answer is taken as a draft:
//! one pass shows what the model says behind every word of it, which is its own answer up to the first word that differs. That
//! word is put into the draft, and only what comes behind it is read again. The answers are those of decoding word by word
//! (`lab/tests/assessments.rs` decodes and compares), at the cost of a pass for each word that differs.

use plateau_common::tasks::{
    Assessment, Batch, Examples, Input, Mark, Questions, Ranked, Scale, Targets, spans,
};

use crate::engine::{Engine, Outputs, Reading};
use crate::error::LabError;
use crate::evaluate;
use crate::float::Float;

/// The metrics of all assessments at an evaluation after `step` updates.
pub(super) fn measure(
    engine: &mut dyn Engine,
    replica: usize,
    examples: &dyn Examples,
    step: u64,
    shape: (usize, usize),
) -> Result<Vec<(String, f64)>, LabError> {
    let mut values = Vec::new();
    for assessment in examples.assessments(step) {
        let _span = tracing::info_span!("assessment", name = assessment.name).entered();
        let mut runner = Runner { engine: &mut *engine, replica, length: shape.0, width: shape.1 };
        let (marks, classes) = match &assessment.questions {
            Questions::Ranked { candidates, questions } => {
                let said = runner.rank(&assessment.batch, candidates, questions)?;
                let mark = |(question, said): (&Ranked, Option<u32>)| Mark {
                    right: said == Some(question.right),
                    linear: question.linear.map(|linear| said == Some(linear)),
                };
                let marks: Vec<Mark> = questions.iter().zip(said).map(mark).collect();
                (marks, questions.iter().map(|question| question.class).collect())
            }
            Questions::Decoded { prompts, most, end, classes } => {
                let said = runner.decode(&assessment.batch, prompts, *most, *end)?;
                let marks = said.iter().enumerate();
                let marks = marks.map(|(example, said)| examples.mark(&assessment, example, said));
                (marks.collect(), classes.clone())
            }
        };
        values.extend(tally(&assessment, &marks, &classes));
    }
    Ok(values)
}

/// Shares of right answers and of answers by the linear rule; an assessment without questions has none.
fn tally(assessment: &Assessment, marks: &[Mark], classes: &[Option<u8>]) -> Vec<(String, f64)> {
    let share = |wanted: &dyn Fn(&Mark) -> Option<bool>, class: Option<u8>| {
        let own = marks.iter().zip(classes).filter(|(_, own)| class.is_none() || **own == class);
        let (count, found) = own
            .filter_map(|(mark, _)| wanted(mark))
            .fold((0, 0), |(count, found), is| (count + 1, found + usize::from(is)));
        (count > 0).then(|| found as f64 / count as f64)
    };
    let right = |mark: &Mark| Some(mark.right);
    let name = assessment.name;
    let mut values = vec![(format!("{name}_accuracy"), share(&right, None))];
    for (class, word) in assessment.classes.iter().enumerate() {
        values.push((format!("{name}_accuracy/{word}"), share(&right, Some(class as u8))));
    }
    values.push((format!("{name}_linear_rule"), share(&|mark| mark.linear, None)));
    values.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

/// A replica that is asked.
struct Runner<'a> {
    engine: &'a mut dyn Engine,
    replica: usize,
    /// Most tokens of a sequence.
    length: usize,
    /// Outputs of a row.
    width: usize,
}

/// An answer that is being decoded.
struct Draft {
    /// Its number among the questions.
    question: usize,
    /// The prompt, what has been said, and what may come next.
    tokens: Vec<u32>,
    prompt: usize,
    /// Tokens said so far.
    said: usize,
}

impl Runner<'_> {
    /// Shows the outputs of all rows of a batch, a row at a time.
    fn rows(&mut self, batch: &Batch, mut visit: impl FnMut(usize, &dyn Row)) -> Result<(), LabError> {
        let width = self.width;
        let how = (Scale::RAW, Reading::Usual);
        self.engine.evaluate(self.replica, batch, how, &mut |first, outputs| match outputs {
            Outputs::F32(all) => {
                all.chunks_exact(width).enumerate().for_each(|(row, outputs)| visit(first + row, &outputs));
            }
            Outputs::F64(all) => {
                all.chunks_exact(width).enumerate().for_each(|(row, outputs)| visit(first + row, &outputs));
            }
        })
    }

    /// The highest of the candidates for each question, whose rows ascend.
    fn rank(
        &mut self,
        batch: &Batch,
        candidates: &[u32],
        questions: &[Ranked],
    ) -> Result<Vec<Option<u32>>, LabError> {
        let mut said = Vec::with_capacity(questions.len());
        self.rows(batch, |row, outputs| {
            while questions.get(said.len()).is_some_and(|question| question.row as usize == row) {
                said.push(outputs.highest_of(candidates));
            }
        })?;
        Ok(said)
    }

    /// What the model says behind each prompt, without the end; `most` tokens at most, and no more than its sequences can hold.
    fn decode(
        &mut self,
        batch: &Batch,
        prompts: &[u32],
        most: usize,
        end: u32,
    ) -> Result<Vec<Vec<u32>>, LabError> {
        let Input::Ragged { tokens, ends, .. } = &batch.input else { return Ok(Vec::new()) };
        let sequences = spans(ends).map(|own| &tokens[own]);
        let drafts = sequences.zip(prompts).enumerate().map(|(question, (tokens, prompt))| Draft {
            question,
            tokens: tokens.to_vec(),
            prompt: *prompt as usize,
            said: 0,
        });
        let mut drafts: Vec<Draft> = drafts.collect();
        let mut answers = vec![Vec::new(); drafts.len()];
        while !drafts.is_empty() {
            let mut said: Vec<u32> = Vec::new();
            // Who says nothing has ended.
            self.rows(&all_of(&drafts), |_, outputs| said.push(outputs.highest().unwrap_or(end)))?;
            let mut start = 0;
            drafts.retain_mut(|draft| {
                let rows = draft.tokens.len();
                let goes_on = draft.accept(&said[start..start + rows], most, end, self.length);
                start += rows;
                if !goes_on {
                    answers[draft.question] = draft.answer().to_vec();
                }
                goes_on
            });
        }
        Ok(answers)
    }
}

impl Draft {
    /// Takes what the model said behind every token of the draft; tells whether there is more to ask.
    fn accept(&mut self, said: &[u32], most: usize, end: u32, length: usize) -> bool {
        loop {
            let place = self.prompt + self.said;
            // Behind a word that differs, nothing that was said is an answer to what stands there now.
            let Some(word) = said.get(place - 1).copied() else { return true };
            if word == end || self.said == most || place > length {
                self.tokens.truncate(place);
                return false;
            }
            self.said += 1;
            match self.tokens.get_mut(place) {
                Some(draft) if *draft == word => {}
                Some(draft) => {
                    *draft = word;
                    return self.may_go_on(most, length);
                }
                None => {
                    self.tokens.push(word);
                    return self.may_go_on(most, length);
                }
            }
        }
    }

    /// Whether another word may be said; an answer that may not go on is cut behind what was said.
    fn may_go_on(&mut self, most: usize, length: usize) -> bool {
        let place = self.prompt + self.said;
        let goes_on = self.said < most && place <= length;
        if !goes_on {
            self.tokens.truncate(place);
        }
        goes_on
    }

    fn answer(&self) -> &[u32] {
        &self.tokens[self.prompt..]
    }
}

/// All drafts as one batch.
fn all_of(drafts: &[Draft]) -> Batch {
    let (mut tokens, mut ends) = (Vec::new(), Vec::new());
    for draft in drafts {
        tokens.extend(&draft.tokens);
        ends.push(tokens.len() as u32);
    }
    let targets = Targets::Classes(vec![0; tokens.len()]);
    let input = Input::Ragged { tokens, ends, positions: None };
    Batch { input, targets, weights: None, also_correct: Vec::new() }
}

/// The outputs of a row.
trait Row {
    /// The class with the highest output, the first of equals; none if an output is not a number.
    fn highest(&self) -> Option<u32>;
    /// The same among some, of which there is at least one.
    fn highest_of(&self, candidates: &[u32]) -> Option<u32>;
}

impl<T: Float> Row for &[T] {
    fn highest(&self) -> Option<u32> {
        evaluate::highest(self)
    }

    fn highest_of(&self, candidates: &[u32]) -> Option<u32> {
        let outputs: Vec<T> = candidates.iter().map(|candidate| self[*candidate as usize]).collect();
        Some(candidates[evaluate::highest(&outputs)? as usize])
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may fail where it stands")]
mod tests {
    use plateau_common::random::Stream;

    use super::*;
    use crate::engine::{Outcome, State, Step};
    use crate::program::Layout;

    const WIDTH: usize = 6;
    const END: u32 = 5;

    /// A language of its own: what comes next is a function of all that came before. Right answers follow it, but for slips.
    fn next(before: &[u32]) -> u32 {
        let mixed = before.iter().fold(7u64, |sum, token| (sum * 31 + u64::from(*token) + 3) % 1009);
        if mixed.is_multiple_of(9) { END } else { (mixed % 5) as u32 }
    }

    /// An engine that says what the language has next, and counts how often it is asked.
    struct Speaker {
        passes: usize,
    }

    impl Engine for Speaker {
        fn layout(&self) -> &Layout {
            panic!("it has no parameters")
        }

        fn update(&mut self, _: &Step<'_>) -> Result<(), LabError> {
            panic!("it learns nothing")
        }

        fn patience(&self) -> u64 {
            1
        }

        fn outcomes(&mut self) -> Result<&[Outcome], LabError> {
            Ok(&[])
        }

        fn evaluate(
            &mut self,
            _: usize,
            batch: &Batch,
            _: (Scale, Reading),
            visit: &mut dyn FnMut(usize, Outputs<'_>),
        ) -> Result<(), LabError> {
            self.passes += 1;
            let Input::Ragged { tokens, ends, .. } = &batch.input else { panic!("sequences were expected") };
            let mut start = 0;
            for end in ends.iter().map(|end| *end as usize) {
                let mut outputs = Vec::new();
                for at in start..end {
                    let said = next(&tokens[start..=at]);
                    outputs.extend((0..WIDTH as u32).map(|class| f32::from(u8::from(class == said))));
                }
                visit(start, Outputs::F32(&outputs));
                start = end;
            }
            Ok(())
        }

        fn state(&self, _: usize) -> Result<State, LabError> {
            panic!("it has no state")
        }

        fn keep(&mut self, _: &[bool]) -> Result<(), LabError> {
            Ok(())
        }
    }

    /// Word by word.
    fn decoded(prompt: &[u32], most: usize, length: usize) -> Vec<u32> {
        let mut all = prompt.to_vec();
        while all.len() <= length && all.len() - prompt.len() < most {
            let word = next(&all);
            if word == END {
                break;
            }
            all.push(word);
        }
        all[prompt.len()..].to_vec()
    }

    #[test]
    fn drafted_answers_are_those_decoded_word_by_word_in_fewer_passes() {
        let mut stream = Stream::new(1, "drafts", 0);
        let mut longest = 0;
        for (most, length) in [(50, 12), (3, 12), (50, 40), (1, 5), (50, 4)] {
            let (mut tokens, mut ends, mut prompts) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..60 {
                let mut own: Vec<u32> = (0..1 + stream.below(4)).map(|_| stream.below(5)).collect();
                prompts.push(own.len() as u32);
                let right = decoded(&own, most, length);
                // Slips in the draft: other words, a word less, words too many.
                own.extend(
                    right.iter().map(|word| if stream.below(4) == 0 { stream.below(5) } else { *word }),
                );
                own.extend((0..stream.below(3)).map(|_| stream.below(5)));
                own.truncate(length);
                tokens.extend(own);
                ends.push(tokens.len() as u32);
            }
            let mut start = 0;
            let right: Vec<Vec<u32>> = prompts
                .iter()
                .zip(&ends)
                .map(|(prompt, end)| {
                    let own = &tokens[start as usize..(start + prompt) as usize];
                    start = *end;
                    decoded(own, most, length)
                })
                .collect();
            longest = longest.max(right.iter().map(Vec::len).max().unwrap_or(0));
            let batch = Batch {
                input: Input::Ragged { tokens: tokens.clone(), ends, positions: None },
                targets: Targets::Classes(vec![0; tokens.len()]),
                weights: None,
                also_correct: Vec::new(),
            };
            let mut speaker = Speaker { passes: 0 };
            let mut runner = Runner { engine: &mut speaker, replica: 0, length, width: WIDTH };
            assert_eq!(runner.decode(&batch, &prompts, most, END).unwrap(), right, "{most}, {length}");
            let words = right.iter().map(Vec::len).max().unwrap_or(0);
            assert!(speaker.passes <= words + 1, "{} passes for {words} words", speaker.passes);
        }
        assert!(longest > 5, "answers of {longest} words at most test little");
    }

    #[test]
    fn marks_are_counted_by_class_and_by_rule() {
        let assessment = Assessment {
            name: "generalisation",
            batch: Batch::empty(),
            questions: Questions::Ranked { candidates: Vec::new(), questions: Vec::new() },
            classes: vec!["near", "far", "never"],
        };
        let mark = |right, linear| Mark { right, linear };
        let marks =
            [mark(true, Some(false)), mark(false, Some(true)), mark(false, Some(false)), mark(true, None)];
        let values = tally(&assessment, &marks, &[Some(0), Some(0), Some(1), None]);
        let values: Vec<(&str, f64)> = values.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        assert_eq!(
            values,
            [
                ("generalisation_accuracy", 0.5),
                ("generalisation_accuracy/near", 0.5),
                ("generalisation_accuracy/far", 0.0),
                ("generalisation_linear_rule", 1.0 / 3.0),
            ],
            "a class without questions has no accuracy"
        );
        assert!(tally(&assessment, &[], &[]).is_empty());
    }
}
