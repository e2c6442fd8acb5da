//! `plateau keys`: certificates and tokens for a coordinator that listens beyond loopback.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::{Args, Subcommand, ValueHint};
use plateau_coordinator::access::{KeysFolder, Role, Token};
use serde_json::{Value, json};

use super::Context;
use crate::exit::{Exit, Outcome};
use crate::table::{Columns, text};
use crate::{device, words};

const INIT_EXAMPLES: &str = "\
Examples:
  plateau keys init keys --host node1 --host 10.0.0.7 --out submit.token
  plateau coordinator --data-dir data --listen 0.0.0.0:7733 --keys keys
  plateau list --coordinator https://node1:7733 --ca keys/ca.pem --token-file submit.token

Copy ca.pem (public) and a token file to agents and clients; everything else stays with the coordinator.";

const CERTIFY_EXAMPLES: &str = "\
Examples:
  plateau keys certify keys --host node1 --host node1.example.org

The names replace those of the former certificate; the coordinator uses it from its next start. Clients keep their ca.pem.";

const ADD_EXAMPLES: &str = "\
Examples:
  plateau keys token add keys node7 --role agent --out node7.token
  plateau keys token add keys alice --role submit
  plateau keys token add keys dashboard --role read

The token is shown once and stored nowhere: what the folder keeps is a digest.";

const LIST_EXAMPLES: &str = "\
Examples:
  plateau keys token list keys";

const REVOKE_EXAMPLES: &str = "\
Examples:
  plateau keys token revoke keys node7

A running coordinator refuses the token within about a second, without a restart; its open sessions end.";

/// Name of the token that `plateau keys init` makes.
const FIRST: &str = "first";

/// Options of `plateau keys`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a certificate authority, a server certificate, and a first token with the role submit
    #[command(after_help = INIT_EXAMPLES)]
    Init(Init),
    /// Make a new server certificate, for other names of the coordinator's host
    #[command(after_help = CERTIFY_EXAMPLES)]
    Certify(Certify),
    /// Add, list and revoke tokens
    Token(Tokens),
}

#[derive(Args, Debug)]
struct Folder {
    /// Folder of the keys
    #[arg(value_name = "DIR", value_hint = ValueHint::DirPath)]
    keys: PathBuf,
}

#[derive(Args, Debug)]
struct Hosts {
    /// Name or address by which agents and clients reach the coordinator; may be repeated [default: this host's name]
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
}

#[derive(Args, Debug)]
struct Init {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    hosts: Hosts,
    #[command(flatten)]
    out: Out,
}

#[derive(Args, Debug)]
struct Certify {
    #[command(flatten)]
    folder: Folder,
    #[command(flatten)]
    hosts: Hosts,
}

#[derive(Args, Debug)]
struct Out {
    /// File to write the token to, readable by you alone, instead of showing it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    out: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct Tokens {
    #[command(subcommand)]
    action: TokenAction,
}

#[derive(Debug, Subcommand)]
enum TokenAction {
    /// Make a token
    #[command(after_help = ADD_EXAMPLES)]
    Add(Add),
    /// List the tokens: names, roles and when they were made
    #[command(after_help = LIST_EXAMPLES)]
    List(Folder),
    /// Revoke a token
    #[command(after_help = REVOKE_EXAMPLES)]
    Revoke(Revoke),
}

#[derive(Args, Debug)]
struct Add {
    #[command(flatten)]
    folder: Folder,
    /// Name to list and revoke it by
    #[arg(value_name = "NAME")]
    name: String,
    /// What its holder may do: agent (train), submit (submit, change and read) or read
    #[arg(long, value_name = "ROLE", value_parser = parse_role)]
    role: Role,
    #[command(flatten)]
    out: Out,
}

#[derive(Args, Debug)]
struct Revoke {
    #[command(flatten)]
    folder: Folder,
    /// Name of the token
    #[arg(value_name = "NAME")]
    name: String,
}

fn parse_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "expected agent, submit or read".to_owned())
}

/// Does what was asked for.
pub fn run(arguments: &Arguments, context: &Context) -> Outcome {
    match &arguments.action {
        Action::Init(init) => {
            let folder = KeysFolder::create(&init.folder.keys, &init.hosts.named())?;
            let token = folder.tokens().add(FIRST, Role::Submit, now())?;
            hand_over(context, &token, FIRST, Role::Submit, init.out.out.as_deref())?;
            let ca = folder.ca_file();
            context.output.note(&format!("give {} to agents and clients", ca.display()));
        }
        Action::Certify(certify) => {
            let hosts = certify.hosts.named();
            KeysFolder::at(&certify.folder.keys).certify(&hosts)?;
            context.output.answer(
                || {
                    format!(
                        "a certificate for {}; the coordinator uses it from its next start",
                        hosts.join(", ")
                    )
                },
                || json!({ "hosts": hosts }),
                String::new,
            )?;
        }
        Action::Token(tokens) => return token(&tokens.action, context),
    }
    Ok(Exit::Done)
}

fn token(action: &TokenAction, context: &Context) -> Outcome {
    match action {
        TokenAction::Add(add) => {
            let file = KeysFolder::at(&add.folder.keys).tokens();
            let token = file.add(&add.name, add.role, now())?;
            hand_over(context, &token, &add.name, add.role, add.out.out.as_deref())?;
        }
        TokenAction::List(folder) => list(&folder.keys, context)?,
        TokenAction::Revoke(revoke) => {
            KeysFolder::at(&revoke.folder.keys).tokens().revoke(&revoke.name)?;
            context.output.answer(
                || format!("`{}` is revoked", revoke.name),
                || json!({ "revoked": revoke.name }),
                String::new,
            )?;
        }
    }
    Ok(Exit::Done)
}

fn list(keys: &Path, context: &Context) -> anyhow::Result<()> {
    let records = KeysFolder::at(keys).tokens().records()?;
    let made = |seconds: u64| words::time(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000));
    context.output.answer(
        || {
            let mut columns = Columns::new(&context.output, &["token", "role", "made"]);
            for record in &records {
                columns.push(vec![
                    text(words::one_line(&record.name)),
                    text(record.role.name()),
                    text(made(record.created_unix_seconds)),
                ]);
            }
            columns.render()
        },
        || {
            let tokens = records.iter().map(|record| {
                json!({ "name": record.name, "role": record.role.name(), "made": made(record.created_unix_seconds) })
            });
            json!({ "tokens": tokens.collect::<Vec<Value>>() })
        },
        || records.iter().map(|record| words::one_line(&record.name)).collect::<Vec<_>>().join("\n"),
    )?;
    Ok(())
}

/// Shows a new token, the only time it is seen, or writes it to a file.
fn hand_over(
    context: &Context,
    token: &Token,
    name: &str,
    role: Role,
    out: Option<&Path>,
) -> anyhow::Result<()> {
    let role = role.name();
    if let Some(path) = out {
        let mut file =
            OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).with_context(|| {
                format!("making the token file {} (revoke `{name}` and try again)", path.display())
            })?;
        writeln!(file, "{}", token.reveal()).with_context(|| format!("writing {}", path.display()))?;
        context.output.answer(
            || format!("the token `{name}` ({role}) is in {}", path.display()),
            || json!({ "name": name, "role": role, "token_file": path }),
            || path.display().to_string(),
        )?;
        return Ok(());
    }
    context.output.note(&format!(
        "the token `{name}` ({role}), shown this once; put it into a file that only you can read (chmod 600):"
    ));
    context.output.answer(
        || token.reveal().to_owned(),
        || json!({ "name": name, "role": role, "token": token.reveal() }),
        || token.reveal().to_owned(),
    )?;
    Ok(())
}

/// When a token was made; shown to people and nothing else.
#[allow(clippy::disallowed_methods, reason = "for display")]
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Hosts {
    fn named(&self) -> Vec<String> {
        if self.hosts.is_empty() { vec![device::host()] } else { self.hosts.clone() }
    }
}
