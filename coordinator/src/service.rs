//! Starting and stopping a coordinator.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use plateau_proto::v1::coordinator_message::{Body, Shutdown};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::access::{self, Guard, KeysFolder, Live, TokenFile};
use crate::checkpoints::Checkpoints;
use crate::core::Input;
use crate::disk::Room;
use crate::engine::{self, EngineEnd, Handle};
use crate::machine::{Listener, Machine};
use crate::retention::{self, Orphans};
use crate::rpc;
use crate::store::{Store, StoreError};

/// How a coordinator is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where everything is kept; created if absent.
    pub data_dir: PathBuf,
    /// Address to listen on; port 0 takes any free one.
    pub listen: SocketAddr,
    /// URL of the checkpoint store, which several data directories may share; `None`: the folder `checkpoints` in the
    /// data directory.
    pub checkpoint_store: Option<String>,
    /// Folder with certificates and tokens (`plateau keys`): everybody is asked who they are, over TLS. Without one only
    /// loopback is listened on.
    pub keys: Option<PathBuf>,
}

/// Time between two looks at the leases.
const TICK: Duration = Duration::from_secs(1);
/// How long requests in progress get to finish at a stop.
const FAREWELL: Duration = Duration::from_secs(20);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// File that tells local clients where the coordinator is; absent while none runs.
const ADDRESS_FILE: &str = "coordinator.json";

/// A running coordinator. Dropped without [`Running::stop`] it ends abruptly, as in a crash: nothing acknowledged is
/// lost. The data directory is free again once the engine's thread has ended.
pub struct Running {
    /// Where it listens.
    pub local_addr: SocketAddr,
    engine: Handle,
    stop: watch::Sender<bool>,
    server_stop: Option<oneshot::Sender<()>>,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    ticker: JoinHandle<()>,
    /// Deletes files that nothing names.
    sweeper: JoinHandle<()>,
    /// Follows the list of tokens, where there is one.
    tokens: Option<JoinHandle<()>>,
    end: EngineEnd,
    address_file: PathBuf,
}

/// Opens the data directory, loads the state and serves.
pub async fn start(options: Options) -> Result<Running> {
    start_on(Machine::real(), options).await
}

/// [`start`] on a machine that need not be this one.
pub async fn start_on(machine: Machine, options: Options) -> Result<Running> {
    if !options.listen.ip().is_loopback() && options.keys.is_none() {
        bail!(
            "listening on {} needs keys, so that connections are encrypted and everybody is asked who they are: make them \
             with `plateau keys init DIR --host NAME` and start with `--keys DIR`; or listen on 127.0.0.1",
            options.listen
        );
    }
    let keys = options.keys.as_deref().map(Keys::open).transpose()?;
    let data_dir = options.data_dir;
    for folder in [data_dir.clone(), data_dir.join("logs")] {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating the folder {}", folder.display()))?;
    }
    let store = Store::open(&data_dir)?;
    let checkpoints = match &options.checkpoint_store {
        Some(url) => Checkpoints::at_url(url, &store.directory_id()?)?,
        None => Checkpoints::in_folder(data_dir.join("checkpoints"))?,
    };
    let database = store.path().to_owned();
    let checkpoints = checkpoints.on(&machine)?;
    let (engine, end) = engine::start_on(&machine, store, checkpoints.clone())?;
    sweep_checkpoints(&engine, &checkpoints).await?;

    let listener =
        machine.network.listen(options.listen).await.with_context(|| {
            format!("listening on {}: is another process using the port?", options.listen)
        })?;
    let local_addr = listener.local_addr().context("reading the address listened on")?;
    let address_file = data_dir.join(ADDRESS_FILE);
    write_address(&address_file, local_addr, keys.is_some())?;

    let (stop, stopping) = watch::channel(false);
    let orphans = Orphans::default();
    let sweeper = tokio::spawn(retention::watch(orphans.clone(), engine.clone(), checkpoints.clone()));
    let room = Room::default();
    let execution = machine.execution;
    let context = rpc::Context {
        engine: engine.clone(),
        checkpoints,
        room,
        database,
        stopping,
        orphans,
        execution,
        forking: Arc::default(),
    };
    let (server_stop, server_stopped) = oneshot::channel::<()>();
    let live = keys.as_ref().map(|keys| Arc::clone(&keys.live));
    let builder = match &keys {
        Some(keys) => rpc::server().tls_config(keys.tls.clone()).context("preparing TLS with the keys")?,
        None => rpc::server(),
    };
    let server = tokio::spawn(serve(builder, Guard::new(live), context, listener, server_stopped).await?);
    let tokens = keys.map(|keys| tokio::spawn(access::follow(keys.live, keys.tokens, keys.content)));
    let ticker = tokio::spawn(tick(engine.clone()));
    tracing::info!(address = %local_addr, data = %data_dir.display(), "coordinator listens");
    Ok(Running {
        local_addr,
        engine,
        stop,
        server_stop: Some(server_stop),
        server,
        ticker,
        sweeper,
        tokens,
        end,
        address_file,
    })
}

/// The keys as the server uses them.
struct Keys {
    tls: ServerTlsConfig,
    live: Arc<Live>,
    tokens: TokenFile,
    /// Content of the list of tokens that `live` accepts.
    content: Vec<u8>,
}

impl Keys {
    fn open(folder: &Path) -> Result<Self> {
        let doing = || format!("reading the keys in {} (`plateau keys init` makes them)", folder.display());
        let keys = KeysFolder::at(folder);
        let (certificate, key) = keys.server_identity().with_context(doing)?;
        let tls = ServerTlsConfig::new().identity(Identity::from_pem(certificate, key)).timeout(HANDSHAKE);
        let tokens = keys.tokens();
        let content = tokens.read().with_context(doing)?;
        let live = Arc::new(Live::default());
        live.replace(tokens.parse(&content).with_context(doing)?);
        Ok(Keys { tls, live, tokens, content })
    }
}

/// Builds the server; the future runs until `stopped`.
async fn serve(
    builder: Server,
    guard: Guard,
    context: rpc::Context,
    listener: Box<dyn Listener>,
    stopped: oneshot::Receiver<()>,
) -> Result<impl Future<Output = Result<(), tonic::transport::Error>> + Send + 'static> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let clients = rpc::client_service(context.clone());
    let agents = rpc::agent_service(context);
    health
        .set_serving::<plateau_proto::v1::plateau_service_server::PlateauServiceServer<rpc::Clients>>()
        .await;
    health.set_serving::<plateau_proto::v1::agent_service_server::AgentServiceServer<rpc::Agents>>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(plateau_proto::FILE_DESCRIPTOR_SET)
        .build_v1()
        .context("preparing server reflection")?;
    let router = builder
        .layer(guard)
        .layer(rpc::Versions)
        .layer(rpc::MessageLimits)
        .add_service(health_service)
        .add_service(reflection)
        .add_service(clients)
        .add_service(agents);
    Ok(async move {
        router
            .serve_with_incoming_shutdown(Box::pin(rpc::incoming(listener)), async {
                // A dropped sender means the same as a sent word.
                let _ = stopped.await;
                health.set_not_serving::<plateau_proto::v1::plateau_service_server::PlateauServiceServer<rpc::Clients>>().await;
            })
            .await
    })
}

/// Deletes uploads that were cut off and checkpoints that were forgotten but not yet deleted.
async fn sweep_checkpoints(engine: &Handle, checkpoints: &Checkpoints) -> Result<()> {
    let referenced = engine
        .query(|state, _| {
            let named = state.trials.iter().flat_map(|(id, trial)| {
                trial.checkpoints.iter().map(|checkpoint| (*id, checkpoint.attempt, checkpoint.step))
            });
            named.collect::<HashSet<_>>()
        })
        .await?;
    let deleted = checkpoints.sweep(&referenced).await.context("sweeping the checkpoint store")?;
    if deleted > 0 {
        tracing::info!(deleted, "unreferenced files swept from the checkpoint store");
    }
    Ok(())
}

async fn tick(engine: Handle) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if engine.send(Input::Tick).await.is_err() {
            return;
        }
    }
}

fn write_address(path: &Path, address: SocketAddr, tls: bool) -> Result<()> {
    let content = serde_json::json!({
        "address": address.to_string(),
        "tls": tls,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    let beside = path.with_extension("json.new");
    std::fs::write(&beside, format!("{content}\n"))
        .and_then(|()| std::fs::rename(&beside, path))
        .with_context(|| format!("writing {}", path.display()))
}

impl Running {
    /// Stops: agents are told (they train on and connect again when the coordinator is back), streams end, everything
    /// is flushed.
    pub async fn stop(mut self) -> Result<()> {
        let reason = "the coordinator stops".to_owned();
        self.engine.sessions.send_all(&Body::Shutdown(Shutdown { reason }));
        // Without receivers nothing waits for the word.
        let _ = self.stop.send(true);
        self.engine.sessions.close_all();
        if let Some(server_stop) = self.server_stop.take() {
            // A server that has failed is reported below.
            let _ = server_stop.send(());
        }
        self.ticker.abort();
        self.sweeper.abort();
        if let Some(tokens) = &self.tokens {
            tokens.abort();
        }
        let served = match tokio::time::timeout(FAREWELL, &mut self.server).await {
            Ok(served) => served.context("waiting for the server")?.context("serving"),
            Err(_) => {
                tracing::warn!("connections were still open and are dropped");
                self.server.abort();
                Ok(())
            }
        };
        self.engine.stop().await;
        let ended = (&mut self.end).await.context("the engine's thread broke")?;
        std::fs::remove_file(&self.address_file)
            .with_context(|| format!("removing {}", self.address_file.display()))?;
        ended?;
        served
    }

    /// Waits until the coordinator ends by itself, which it does only when it must: the store or the server failed.
    pub async fn wait(&mut self) -> Result<()> {
        tokio::select! {
            biased;
            ended = &mut self.end => {
                let ended: Result<(), StoreError> = ended.context("the engine's thread broke")?;
                Ok(ended?)
            }
            served = &mut self.server => Ok(served.context("the server broke")??),
        }
    }

    /// The engine, for questions in the same process.
    pub fn engine(&self) -> &Handle {
        &self.engine
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Nobody waits for the word, or it was already given.
        let _ = self.stop.send(true);
        self.engine.abandon();
        self.server.abort();
        self.ticker.abort();
        self.sweeper.abort();
        if let Some(tokens) = &self.tokens {
            tokens.abort();
        }
    }
}
