//! `plateau agents`: the agents of a coordinator.

use clap::Args;
use plateau_proto::v1;
use serde_json::{Value, json};

use super::Context;
use crate::client::{DataDirectory, refusal};
use crate::exit::{Exit, Outcome};
use crate::table::{Columns, number, text};
use crate::words;

const EXAMPLES: &str = "\
Examples:
  plateau agents
  plateau agents --output json";

/// Options of `plateau agents`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(flatten)]
    data: DataDirectory,
}

/// Lists the agents.
pub async fn run(arguments: &Arguments, context: &Context) -> Outcome {
    let mut connection = context.connect(&arguments.data).await?;
    let answer = connection.service.list_agents(v1::ListAgentsRequest {}).await;
    let agents = answer.map_err(|status| refusal("listing the agents", &status))?.into_inner().agents;
    context.output.answer(
        || {
            if agents.is_empty() {
                return "no agents yet; `plateau agent --device cpu` starts one".to_owned();
            }
            let headings = ["agent", "device", "host", "connected", "trials", "heard", "drained"];
            let mut columns = Columns::new(&context.output, &headings);
            for agent in &agents {
                columns.push(vec![
                    text(words::one_line(&agent.name)),
                    text(words::one_line(&agent.device)),
                    text(words::one_line(&agent.host)),
                    text(if agent.connected { "yes" } else { "no" }),
                    number(agent.running_trials),
                    text(format!("{} ago", words::duration(agent.seconds_since_heard.round()))),
                    text(words::one_line(&agent.drained)),
                ]);
            }
            columns.render()
        },
        || json!({ "agents": agents.iter().map(to_json).collect::<Vec<Value>>() }),
        || agents.iter().map(|agent| words::one_line(&agent.name)).collect::<Vec<_>>().join("\n"),
    )?;
    connection.close().await?;
    Ok(Exit::Done)
}

/// An agent in one line: `agent node7-cuda0: drained (by hand), 3 trials to finish`.
pub fn sentence(agent: &v1::AgentSummary) -> String {
    let trials = words::plural(u64::from(agent.running_trials), "trial");
    let name = words::one_line(&agent.name);
    match words::one_line(&agent.drained).as_str() {
        "" => format!("agent {name}: not drained, {trials}"),
        reason => format!("agent {name}: drained ({reason}), {trials} to finish"),
    }
}

/// An agent for programs.
pub fn to_json(agent: &v1::AgentSummary) -> Value {
    json!({
        "name": agent.name,
        "device": agent.device,
        "host": agent.host,
        "connected": agent.connected,
        "running_trials": agent.running_trials,
        "seconds_since_heard": agent.seconds_since_heard,
        "drained": agent.drained,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_says_whether_and_why_it_is_drained() {
        let mut agent = v1::AgentSummary { name: "a".to_owned(), running_trials: 1, ..Default::default() };
        assert_eq!(sentence(&agent), "agent a: not drained, 1 trial");
        agent.drained = "by hand\u{1b}[2J".to_owned();
        assert_eq!(sentence(&agent), "agent a: drained (by hand\\u{1b}[2J), 1 trial to finish");
        assert_eq!(to_json(&agent)["drained"], "by hand\u{1b}[2J");
    }
}
