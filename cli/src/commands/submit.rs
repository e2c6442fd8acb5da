//! `plateau submit`: hands a study to a coordinator.

use clap::Args;
use plateau_common::trace::TraceContext;
use plateau_proto::v1;
use serde_json::json;
use tracing::Instrument as _;

use super::Context;
use crate::client::{DataDirectory, Service, refusal};
use crate::exit::{Exit, Outcome};
use crate::study_file::{self, ReadStudy, StudyArguments};
use crate::{sweeps, words};

const EXAMPLES: &str = "\
Examples:
  plateau submit study.toml
  plateau submit study.toml --set train.steps=500 --set axes.seed=[0,1]
  sweep=$(plateau submit study.toml --output quiet) && plateau watch $sweep

The same study is the same sweep: submitting it again runs nothing that is done or waiting already.";

/// Options of `plateau submit`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    study: StudyArguments,
    #[command(flatten)]
    data: DataDirectory,
}

/// Submits the study.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let read = arguments.study.read()?;
    let mut connection = context.connect(&arguments.data).await?;
    let answer = submit(&mut connection.service, &read).await?;
    let options = context.target(&arguments.data).as_options();
    context.output.answer(
        || {
            let id = words::short(&answer.sweep);
            let next = sweeps::next_commands(&[
                (format!("plateau watch {id}{options}"), "follow it"),
                (format!("plateau trials {id}{options}"), "list its trials"),
                (format!("plateau report {id}{options}"), "statistics and figures, at any time"),
                (format!("plateau cancel {id}{options}"), "give it up"),
            ]);
            format!("{}\n\nNext:\n{next}", sentence(&read.study.name, &answer))
        },
        || {
            json!({
                "sweep": answer.sweep,
                "existing": answer.existing,
                "trials": answer.trials,
                "new_trials": answer.new_trials,
            })
        },
        || answer.sweep.clone(),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

/// Submits a study that has been read. Its span is the root of the trace that the coordinator continues.
pub async fn submit(service: &mut Service, read: &ReadStudy) -> anyhow::Result<v1::SubmitResponse> {
    let source = read.study.source();
    // Derived, not drawn: submitting a study again joins the same trace.
    let trace = TraceContext::of_trial(read.study.digest(), "submit");
    let span = tracing::info_span!("submit", study = %read.study.name, %trace);
    let request =
        v1::SubmitRequest { study: Some(study_file::to_wire(source)), traceparent: trace.to_string() };
    let answer = service.submit(request).instrument(span).await;
    answer
        .map(tonic::Response::into_inner)
        .map_err(|status| refusal(&format!("submitting {}", source.file_name), &status))
}

/// What came of a submission, in words.
pub fn sentence(name: &str, answer: &v1::SubmitResponse) -> String {
    let id = words::short(&answer.sweep);
    let trials = words::plural(answer.trials, "trial");
    match (answer.existing, answer.new_trials) {
        (true, 0) => {
            format!("sweep {id} `{name}` exists already ({trials}); all are done or already waiting")
        }
        (true, new) => {
            format!("sweep {id} `{name}` exists already ({trials}); {new} will run")
        }
        (false, new) if new == answer.trials => format!("sweep {id} `{name}` submitted: {trials}"),
        (false, new) => {
            let others = answer.trials.saturating_sub(new);
            let others =
                format!("{others} {} done or already waiting", if others == 1 { "is" } else { "are" });
            format!("sweep {id} `{name}` submitted: {trials}, {new} of them to run, {others}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submissions_say_what_will_run() {
        let answer = |existing, trials, new_trials| v1::SubmitResponse {
            sweep: "5ca1ab1e0000".to_owned(),
            existing,
            trials,
            new_trials,
        };
        assert_eq!(sentence("s", &answer(false, 4, 4)), "sweep 5ca1ab1e `s` submitted: 4 trials");
        assert_eq!(
            sentence("s", &answer(false, 4, 1)),
            "sweep 5ca1ab1e `s` submitted: 4 trials, 1 of them to run, 3 are done or already waiting"
        );
        assert_eq!(
            sentence("s", &answer(true, 1, 0)),
            "sweep 5ca1ab1e `s` exists already (1 trial); all are done or already waiting"
        );
        // An existing sweep gets no trials by being submitted: those that failed are tried again.
        assert_eq!(
            sentence("s", &answer(true, 4, 2)),
            "sweep 5ca1ab1e `s` exists already (4 trials); 2 will run"
        );
    }
}
