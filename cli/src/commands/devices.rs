//! `plateau devices`: what this machine can train on.

use clap::Args;
use serde_json::{Value, json};

use super::Context;
use crate::device;
use crate::exit::{Exit, Outcome};
use crate::table::{Columns, text};

const EXAMPLES: &str = "\
Examples:
  plateau devices
  for device in $(plateau devices --output quiet); do plateau agent --device $device & done";

/// Options of `plateau devices`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

/// Lists the devices.
pub fn run(_arguments: &Arguments, context: &Context) -> Outcome {
    let devices = device::present();
    context.output.answer(
        || {
            let mut columns = Columns::new(&context.output, &["device", "description"]);
            for (device, description) in &devices {
                columns.push(vec![text(device), text(description)]);
            }
            let mut table = columns.render();
            if let Some(reason) = device::no_cards() {
                table.push('\n');
                table.push_str(&reason);
            }
            table
        },
        || {
            let devices: Vec<Value> = devices
                .iter()
                .map(|(device, description)| json!({ "device": device.to_string(), "description": description }))
                .collect();
            json!({ "devices": devices, "cuda": cfg!(feature = "cuda"), "no_cards": device::no_cards() })
        },
        || devices.iter().map(|(device, _)| device.to_string()).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(Exit::Done)
}
