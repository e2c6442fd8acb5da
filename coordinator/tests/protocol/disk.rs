//! A disk that runs low, is full, or takes no writes: real small file systems. Where mounting is not permitted these tests
//! say so and end; the process tests fill a disk by another means.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use plateau_common::limits::MIN_FREE_DISK_BYTES;
use plateau_coordinator::{disk, start, verify};
use plateau_proto::v1;
use plateau_proto::v1::coordinator_message::Body as Hear;

use crate::support::*;

const MEGABYTE: u64 = 1 << 20;

/// A file system of its own, gone with this.
struct SmallDisk {
    folder: tempfile::TempDir,
}

impl SmallDisk {
    fn new(bytes: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let disk = SmallDisk { folder };
        let mounted = disk.mount(&format!("size={bytes}"));
        if !mounted {
            eprintln!("SKIPPED: this test mounts a small file system, which is not permitted here");
        }
        mounted.then_some(disk)
    }

    fn mount(&self, options: &str) -> bool {
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(self.folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.is_ok_and(|status| status.success())
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Fills the disk until only `free` bytes are left; deleting the file frees them.
    fn fill_up_to(&self, free: u64) -> PathBuf {
        let path = self.folder.path().join("filler");
        let mut filler = std::fs::File::create(&path).unwrap();
        while let now = disk::free_bytes(self.folder.path()).unwrap()
            && now > free
        {
            let piece = usize::try_from((now - free).min(64 << 10)).unwrap();
            if filler.write_all(&vec![7; piece]).is_err() {
                break;
            }
        }
        // The system's count of what is free lags behind: a full disk is one that takes no more.
        while free == 0 && filler.write_all(&[7; 4096]).is_ok() {}
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A file that is still open keeps it busy; lazily, it goes when that is closed.
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn case_34_a_disk_that_runs_low_refuses_what_can_wait_and_records_endings() {
    let Some(disk) = SmallDisk::new(MIN_FREE_DISK_BYTES + 12 * MEGABYTE) else { return };
    let running = start(options(&disk.data())).await.unwrap();
    let mut client = client(&running).await;
    let sweep = submit(&mut client, STUDY).await.sweep;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    for lease in &cohort {
        agent.started(lease).await.unwrap();
        agent.upload(lease, 5, b"five").await.unwrap();
    }
    let filler = disk.fill_up_to(MIN_FREE_DISK_BYTES - MEGABYTE);

    let other = STUDY.replace("\"tiny\"", "\"other\"").replace("[8, 16]", "[32]");
    let request = v1::SubmitRequest { study: source(&other), traceparent: String::new() };
    let status = client.submit(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("a new study is refused until space is freed"), "{status}");
    let longer = v1::ExtendRequest { sweep: sweep.clone(), seeds: Vec::new(), steps: 20 };
    assert_eq!(client.extend(longer).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    let status = agent.upload(&cohort[0], 10, b"ten").await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert!(status.message().contains("a checkpoint is refused"), "{status}");
    // Who asks why no checkpoint comes learns it.
    let explain = v1::ExplainRequest { subject: cohort[1].key.clone().unwrap().trial };
    let why = client.explain(explain.clone()).await.unwrap().into_inner().summary;
    assert!(why.contains("a checkpoint is refused until space is freed"), "{why}");
    assert!(why.contains("a new study is refused until space is freed"), "{why}");
    // What is known already needs no room, and what trains is recorded.
    assert!(submit(&mut client, STUDY).await.existing);
    agent.metrics(&cohort[0], 0, &(0..=10).collect::<Vec<u64>>()).await.unwrap();
    agent.completed(&cohort[0]).await.unwrap();
    assert_eq!(counts(&mut client, &sweep).await.completed, 1);

    std::fs::remove_file(filler).unwrap();
    client.submit(request).await.unwrap();
    agent.upload(&cohort[1], 10, b"ten").await.unwrap();
    let why = client.explain(explain).await.unwrap().into_inner().summary;
    assert!(!why.contains("refused"), "{why}");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_37_a_failed_write_stops_the_coordinator_which_says_why_and_starts_again_on_what_it_acknowledged()
 {
    let Some(disk) = SmallDisk::new(MIN_FREE_DISK_BYTES + 12 * MEGABYTE) else { return };
    let mut running = start(options(&disk.data())).await.unwrap();
    let mut client_before = client(&running).await;
    submit(&mut client_before, STUDY).await;
    let mut agent = Agent::connect(&running, "a").await;
    let cohort = agent.ask().await;
    let lease = cohort[0].clone();
    agent.started(&lease).await.unwrap();
    let filler = disk.fill_up_to(MEGABYTE / 2);
    // Metrics until the disk takes no more; each is acknowledged or never answered.
    let mut acknowledged = 0u64;
    for chunk in 0.. {
        let steps: Vec<u64> = (0..1000).map(|step| chunk * 1000 + step).collect();
        let sequence = agent.say(metrics(&lease, chunk, &steps, 0.1 + chunk as f64)).await;
        let answered = loop {
            match agent.next().await {
                Ok(Hear::Acknowledged(answer)) if answer.sequence == sequence => break true,
                Ok(_) => {}
                Err(_) => break false,
            }
        };
        if !answered {
            break;
        }
        acknowledged += 1;
    }
    let problem = format!("{:#}", running.wait().await.unwrap_err());
    assert!(problem.contains("coordinator.sqlite cannot be written"), "{problem}");
    assert!(problem.contains("os error 28") && problem.contains("free space"), "{problem}");
    assert!(acknowledged > 0, "not even one chunk was recorded");
    drop((agent, client_before, running));

    std::fs::remove_file(filler).unwrap();
    let found = verify::check(&disk.data(), None).await.unwrap();
    assert_eq!(found.findings, []);
    assert_eq!(found.chunks, acknowledged, "every acknowledged chunk once, and no other");
    let running = start(options(&disk.data())).await.unwrap();
    let held = cohort.iter().filter_map(|lease| lease.key.clone()).collect();
    let mut agent = Agent::connect_as(&running, "a", "first start", held).await;
    agent.upload(&lease, 10, b"ten").await.unwrap();
    agent.completed(&lease).await.unwrap();
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_38_a_directory_that_takes_no_writes_is_refused_and_can_be_verified() {
    let Some(disk) = SmallDisk::new(MIN_FREE_DISK_BYTES + 12 * MEGABYTE) else { return };
    let running = start(options(&disk.data())).await.unwrap();
    submit(&mut client(&running).await, STUDY).await;
    running.stop().await.unwrap();
    assert!(disk.mount("remount,ro"), "the file system could not be made read-only");
    let problem = start(options(&disk.data())).await.err().unwrap().to_string();
    let path = disk.data().display().to_string();
    assert!(problem.contains(&format!("the data directory {path} cannot be written")), "{problem}");
    assert!(problem.contains("os error 30") && problem.contains("mount it writable"), "{problem}");
    let report = verify::check(&disk.data(), None).await.unwrap();
    assert_eq!((report.findings.len(), report.trials), (0, 8));
    assert!(disk.mount("remount,rw"));
    start(options(&disk.data())).await.unwrap().stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn case_34_a_full_disk_refuses_the_start_and_says_so() {
    let Some(disk) = SmallDisk::new(8 * MEGABYTE) else { return };
    std::fs::create_dir(disk.data()).unwrap();
    let filler = disk.fill_up_to(0);
    let problem = format!("{:#}", start(options(&disk.data())).await.err().unwrap());
    assert!(problem.contains("os error 28") && problem.contains("free space"), "{problem}");
    std::fs::remove_file(filler).unwrap();
    start(options(&disk.data())).await.unwrap().stop().await.unwrap();
}
