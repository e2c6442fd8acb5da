//! The agent's side of training: what is begun when, what the trainer reports, and how cohorts end.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use plateau_common::failure::FailureClass;
use plateau_common::throughput::CALIBRATION_SECONDS;
use plateau_proto::convert;
use plateau_proto::v1::agent_message::{Body, Crashed, EndedReport, OutOfMemory, Started, Throughput};
use plateau_proto::v1::{LeaseKey, ThroughputPoint, TrainerEvent, trainer_command, trainer_event};
use tokio::time::Instant;

use crate::agent::Agent;
use crate::classify;
use crate::cohort::{Batch, Cohort, Held};
use crate::driver_log::DriverEvent;
use crate::prepare::resume_folder_of;
use crate::reporter::Report;

/// A speed that differs by less than this share from the one told before is no news.
const NEWS: f64 = 0.1;
/// How long after a trainer's end the driver's word on it is waited for.
const DRIVER_PATIENCE: Duration = Duration::from_millis(500);

impl Agent {
    /// Begins what can begin: joins to the cohort in training, the next cohort once it is over.
    pub async fn advance(&mut self) {
        if self.leaving || self.calibrating.is_some() || self.unhealthy.is_some() {
            return;
        }
        if self.cohort.is_some() {
            self.join().await;
            return;
        }
        let Some(batch) = self.waiting.front_mut().filter(|batch| batch.ready) else { return };
        let threads = u32::try_from(self.options.threads).unwrap_or(u32::MAX);
        let memory_bytes = self.options.memory_bytes.unwrap_or(0);
        let (device, scratch) = (self.options.device.clone(), self.scratch.to_string_lossy().into_owned());
        let command = if std::mem::take(&mut batch.calibrate) {
            self.calibrating = Some(batch.number);
            trainer_command::Body::Calibrate(trainer_command::Calibrate {
                config_json: batch.config_json.clone(),
                device,
                threads,
                scratch,
                memory_bytes,
                seconds: CALIBRATION_SECONDS,
                max_cohort: self.options.max_cohort,
            })
        } else {
            let Some(batch) = self.waiting.pop_front() else { return };
            self.numbered += 1;
            let members = batch.held.iter().filter_map(|held| held.member.clone()).collect();
            let speed = self.speeds.get(&batch.key).copied().unwrap_or(0.0);
            self.driver_said = None;
            self.cohort = Some(Cohort::new(self.numbered, batch, speed));
            self.cut_off = false;
            let cohort = self.numbered;
            let train = trainer_command::Train { members, device, threads, scratch, cohort, memory_bytes };
            trainer_command::Body::Train(train)
        };
        if let Err(error) = self.begin(command).await {
            self.child = None;
            let (class, reason) = (classify::failed(&error), format!("{error:#}"));
            if self.calibrating.take().is_some()
                && let Some(batch) = self.waiting.pop_front()
            {
                self.report_crash(batch.held, class, reason);
            } else {
                self.crash(class, reason);
            }
        }
    }

    /// Gives the trainer something to do; starts one where there is none.
    async fn begin(&mut self, command: trainer_command::Body) -> anyhow::Result<()> {
        if self.child.is_none() {
            self.child = Some(self.machine.trainers.start(&self.scratch)?);
        }
        self.child.as_mut().context("no trainer")?.command(command).await
    }

    /// Hands waiting trials of the cohort's key to the trainer, as far as places are free.
    async fn join(&mut self) {
        if self.stop_by.is_some() {
            return;
        }
        let (Some(cohort), Some(batch)) = (&mut self.cohort, self.waiting.front()) else { return };
        let fits = batch.join && batch.ready && batch.key == cohort.key && batch.held.len() <= cohort.free;
        if !fits {
            return;
        }
        let Some(batch) = self.waiting.pop_front() else { return };
        cohort.free -= batch.held.len();
        let members = batch.held.iter().filter_map(|held| held.member.clone()).collect();
        cohort.members.extend(batch.held);
        let add = trainer_command::AddMembers { cohort: cohort.number, members };
        self.command(trainer_command::Body::AddMembers(add)).await;
    }

    /// Has the trainer save members of the cohort in training and let them go; all of it stops where nobody would be
    /// left.
    pub async fn let_go(&mut self, which: impl Fn(&Held) -> bool) {
        let Some(cohort) = &mut self.cohort else { return };
        let mut leaving = Vec::new();
        for (replica, held) in cohort.members.iter_mut().enumerate() {
            if !held.over && !held.leaving && which(held) {
                held.leaving = true;
                leaving.push(replica);
            }
        }
        if leaving.is_empty() {
            return;
        }
        let number = cohort.number;
        if cohort.live().all(|held| held.leaving) {
            self.stop_by.get_or_insert_with(|| Instant::now() + crate::agent::STOPPING);
            self.command(trainer_command::Body::Stop(trainer_command::Stop {})).await;
            return;
        }
        for replica in leaving {
            let replica = u32::try_from(replica).unwrap_or(u32::MAX);
            let drop = trainer_command::DropMember { cohort: number, replica };
            self.command(trainer_command::Body::DropMember(drop)).await;
        }
    }

    /// Handles one event of the trainer.
    pub async fn trained(&mut self, event: TrainerEvent) {
        use trainer_event::Body as Event;
        match event.body {
            Some(Event::Ready(_)) => tracing::debug!("trainer ready"),
            Some(Event::Started(started)) => self.started(started),
            Some(Event::Evaluated(evaluated)) => self.evaluated(evaluated),
            Some(Event::Checkpointed(checkpoint)) => {
                let Some(held) = self.member(checkpoint.replica) else { return };
                held.weights_hash = checkpoint.weights_hash;
                held.step = checkpoint.step;
                held.span.in_scope(|| tracing::info!(step = checkpoint.step, "checkpoint"));
                let (key, folder) = (held.key.clone(), PathBuf::from(checkpoint.folder));
                let _ = self.reports.send(Report::Checkpoint(key, checkpoint.step, folder));
            }
            Some(Event::Ended(ended)) => self.ended(ended),
            Some(Event::Dropped(dropped)) => {
                let Some(held) = self.member(dropped.replica) else { return };
                if !std::mem::replace(&mut held.over, true) {
                    let (key, seconds) = (held.key.clone(), held.seconds(1));
                    let body = Body::Released(plateau_proto::v1::agent_message::Released {
                        lease: Some(key.clone()),
                        reason: "as it was asked to".to_owned(),
                        train_seconds: seconds,
                    });
                    self.over(vec![key], body);
                }
            }
            Some(Event::FreePlaces(free)) => {
                if let Some(cohort) = &mut self.cohort {
                    cohort.free = free.places as usize;
                }
            }
            Some(Event::Progress(progress)) => {
                self.steps_per_second = progress.replica_steps_per_second;
                if let Some(cohort) = &mut self.cohort {
                    cohort.progress(progress.step, progress.replica_steps_per_second);
                }
                self.tell_speed(false);
            }
            Some(Event::Log(log)) => {
                let Some(held) = self.member(log.replica) else { return };
                let key = held.key.clone();
                self.lines.extend(log.line.map(|line| (key, line)));
            }
            Some(Event::Calibrated(found)) => self.calibrated(found).await,
            Some(Event::Finished(finished)) if finished.error.is_empty() => self.finished(),
            Some(Event::Finished(finished)) => {
                // Whatever state the child is in, a fresh one is in a better one.
                self.child = None;
                match finished.out_of_memory {
                    Some(memory) => self.out_of_memory(memory, false, finished.error),
                    None => {
                        self.hear_driver().await;
                        let class = match (finished.card_error, finished.environment) {
                            (0, true) => FailureClass::Environment,
                            (0, false) => FailureClass::Reported,
                            (code, _) => classify::card_error(code),
                        };
                        self.crash(class, finished.error);
                    }
                }
            }
            None => tracing::warn!("the trainer sent an empty message"),
        }
    }

    fn member(&mut self, replica: u32) -> Option<&mut Held> {
        let member = self.cohort.as_mut().and_then(|cohort| cohort.members.get_mut(replica as usize));
        if member.is_none() {
            tracing::warn!(replica, "the trainer reports on a replica it was not given");
        }
        member
    }

    fn started(&mut self, started: trainer_event::Started) {
        let Some(held) = self.member(started.replica) else { return };
        (held.step, held.from_step) = (started.from_step, started.from_step);
        held.started = Some(Instant::now());
        held.member = None;
        held.span.in_scope(|| tracing::info!(from_step = started.from_step, "training"));
        let key = held.key.clone();
        // It has been read; a lease that starts afresh has none.
        let _ = std::fs::remove_dir_all(resume_folder_of(&self.scratch, &key));
        self.link.tell(Body::Started(Started { lease: Some(key), from_step: started.from_step }));
    }

    fn evaluated(&mut self, evaluated: trainer_event::Evaluated) {
        let Some(held) = self.member(evaluated.replica) else { return };
        let key = held.key.clone();
        let chunk = match convert::metrics_chunk("metrics", evaluated.metrics.unwrap_or_default()) {
            Ok(chunk) => chunk,
            Err(error) => {
                tracing::warn!(%error, "the trainer sent metrics that cannot be read");
                return;
            }
        };
        held.step = chunk.steps.last().copied().unwrap_or(held.step);
        for evaluation in chunk.into_evaluations() {
            let _ = self.reports.send(Report::Evaluated(key.clone(), evaluation));
        }
    }

    fn ended(&mut self, ended: trainer_event::Ended) {
        let share = self.cohort.as_ref().map_or(1, |cohort| cohort.size);
        let Some(held) = self.member(ended.replica) else { return };
        held.span.in_scope(|| tracing::info!(step = ended.step, "ended"));
        held.over = true;
        held.step = ended.step;
        let report = EndedReport {
            lease: Some(held.key.clone()),
            ending: ended.ending,
            step: ended.step,
            train_seconds: held.seconds(share),
            weights_hash: held.weights_hash.clone(),
        };
        let key = held.key.clone();
        self.over(vec![key], Body::Ended(report));
    }

    /// The cohort is over. Members that ended are done; those that joined too late to be started are a cohort of
    /// their own, unless everything was to stop; the others go back to the coordinator.
    fn finished(&mut self) {
        self.tell_speed(true);
        let stopped = self.stop_by.take().is_some();
        let Some(cohort) = self.cohort.take() else { return };
        let size = cohort.size;
        let (late, rest): (Vec<Held>, Vec<Held>) = cohort
            .members
            .into_iter()
            .filter(|held| !held.over)
            .partition(|held| held.member.is_some() && !stopped && !held.leaving);
        for held in &rest {
            self.release(held, size, "training was stopped");
        }
        if !late.is_empty() {
            self.numbered += 1;
            self.waiting.push_front(Batch {
                number: self.numbered,
                key: cohort.key,
                config_json: cohort.config_json,
                held: late,
                join: false,
                calibrate: false,
                ready: true,
            });
        }
    }

    /// Tells the coordinator how fast the cohort is, where that is known and news.
    fn tell_speed(&mut self, finished: bool) {
        let Some(cohort) = &self.cohort else { return };
        let Some(speed) = cohort.observed_speed(finished) else { return };
        let known = self.speeds.get(&cohort.key).copied().unwrap_or(0.0);
        if (speed - known).abs() <= NEWS * known {
            return;
        }
        let (key, size) = (cohort.key.clone(), u32::try_from(cohort.size).unwrap_or(u32::MAX));
        self.speeds.insert(key.clone(), speed);
        let point = ThroughputPoint { cohort_size: size, replica_steps_per_second: speed };
        self.link.tell(Body::Throughput(Throughput {
            cohort: key,
            points: vec![point],
            calibrated: false,
            evaluation_seconds: 0.0,
        }));
    }

    /// The speed of the waiting batch's shape was measured, or could not be: then no points are told, so that nobody
    /// tries again, and training itself shows what is wrong.
    async fn calibrated(&mut self, found: trainer_event::Calibrated) {
        let Some(number) = self.calibrating.take() else { return };
        if !found.error.is_empty() {
            tracing::warn!(error = found.error, "the speed of a shape could not be measured");
        }
        let Some(batch) = self.waiting.iter().find(|batch| batch.number == number) else { return };
        tracing::info!(points = ?found.points, "the speed of a shape was measured");
        let throughput = Throughput {
            cohort: batch.key.clone(),
            points: found.points,
            calibrated: true,
            evaluation_seconds: found.evaluation_seconds,
        };
        self.link.tell(Body::Throughput(throughput));
    }

    /// Ends the cohort in training after an accident. What the driver said of the card meanwhile goes before what the trainer
    /// saw of it.
    pub fn crash(&mut self, class: FailureClass, reason: String) {
        self.stop_by = None;
        let (class, reason) = match self.driver_said.take() {
            Some((said, text)) if !class.is_device_unhealthy() => (said, format!("{text}; {reason}")),
            _ => (class, reason),
        };
        if class.is_device_unhealthy() {
            self.condemn(class, reason);
            return;
        }
        let members = self.cohort.take().map(|cohort| cohort.members).unwrap_or_default();
        self.report_crash(members, class, reason);
    }

    /// Reports leases whose training broke.
    pub fn report_crash(&mut self, held: Vec<Held>, class: FailureClass, reason: String) {
        let leases: Vec<LeaseKey> = held.into_iter().filter(|held| !held.over).map(|held| held.key).collect();
        tracing::error!(class = class.words(), reason, leases = leases.len(), "training broke");
        if !leases.is_empty() {
            let class = convert::failure_class_to_wire(class).into();
            let body = Body::Crashed(Crashed { leases: leases.clone(), reason, class });
            self.over(leases, body);
        }
    }

    /// The device must not be used any more: its trainer is thrown away, everything is given back, and nothing is asked for
    /// again by this process.
    pub fn condemn(&mut self, class: FailureClass, reason: String) {
        let device = match &self.options.driver_log {
            Some(log) => {
                format!("{} ({}) at {}", self.options.device, self.options.device_description, log.card)
            }
            None => format!("{} ({})", self.options.device, self.options.device_description),
        };
        let reason = format!("{device}: {reason}");
        (self.child, self.stop_by, self.calibrating) = (None, None, None);
        let members = self.cohort.take().map(|cohort| cohort.members).unwrap_or_default();
        let leases: Vec<LeaseKey> =
            members.into_iter().filter(|held| !held.over).map(|held| held.key).collect();
        tracing::error!(class = class.words(), reason, leases = leases.len(), "the device is unhealthy");
        self.release_waiting(class.words(), |_| true);
        if self.unhealthy.replace(class).is_none() || !leases.is_empty() {
            let class = convert::failure_class_to_wire(class).into();
            let body = Body::Crashed(Crashed { leases: leases.clone(), reason, class });
            self.over(leases, body);
        }
    }

    /// The driver said something of the card.
    pub fn driver_spoke(&mut self, event: DriverEvent) {
        match classify::driver_event(event.xid) {
            Some(class) if class.is_device_unhealthy() => self.condemn(class, event.text),
            Some(class) => {
                tracing::warn!(
                    event = event.text,
                    "the card has a memory error that it contained: reset it soon"
                );
                self.driver_said = Some((class, event.text));
            }
            None => tracing::warn!(event = event.text, "the driver reports an error"),
        }
    }

    /// Hears what the driver says of a trainer's end, which may come a moment after it.
    async fn hear_driver(&mut self) {
        let patience = tokio::time::Instant::now() + DRIVER_PATIENCE;
        while let Some(events) = &mut self.driver_events
            && let Ok(Some(event)) = tokio::time::timeout_at(patience, events.recv()).await
        {
            self.driver_spoke(event);
        }
    }

    /// Ends the cohort in training because it takes too much memory, for certain or by suspicion.
    fn out_of_memory(&mut self, memory: trainer_event::OutOfMemory, suspected: bool, reason: String) {
        self.stop_by = None;
        let members = self.cohort.take().map(|cohort| cohort.members).unwrap_or_default();
        let live = members.into_iter().filter(|held| !held.over).map(|held| held.key);
        let leases: Vec<LeaseKey> = live.collect();
        tracing::warn!(reason, leases = leases.len(), suspected, "out of memory");
        if !leases.is_empty() {
            let body = Body::OutOfMemory(OutOfMemory {
                cohort_size: u32::try_from(leases.len()).unwrap_or(u32::MAX),
                leases: leases.clone(),
                needed_bytes: memory.needed_bytes,
                available_bytes: memory.available_bytes,
                suspected,
                reason,
            });
            self.over(leases, body);
        }
    }

    /// The child closed its output: it died.
    pub async fn mourn(&mut self) {
        let Some(child) = self.child.take() else { return };
        let (reason, end) = child.obituary().await;
        self.hear_driver().await;
        let class = classify::ended(end);
        if self.calibrating.is_some() {
            // Not the trials' fault; they are trained without a measurement.
            self.calibrated(trainer_event::Calibrated { error: reason, ..Default::default() }).await;
        } else if self.cohort.is_none() {
            tracing::warn!(reason, "an idle trainer ended");
        } else if class == FailureClass::HostMemory {
            let reason = format!("{reason}; the kernel killed it, because the system was out of memory");
            self.out_of_memory(trainer_event::OutOfMemory::default(), false, reason);
        } else if end.signal == Some(classify::SIGKILL) && self.driver_said.is_none() {
            let reason = format!("{reason}; what kills processes so is mostly a system without memory");
            self.out_of_memory(trainer_event::OutOfMemory::default(), true, reason);
        } else {
            self.crash(class, reason);
        }
    }
}
