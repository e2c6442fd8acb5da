//! What training asks of a card, counted by the pretended driver.
//!
//! A library is found by its name when a process starts, so each test runs itself again, in a process of its own that has the
//! pretended driver's folder on its library path.

use std::path::PathBuf;
use std::process::Command;

use plateau_lab::cuda;

/// The pretended driver, built by cargo beside this test.
fn library() -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let folders = own.ancestors().skip(1).take(2);
    let mut places = folders.map(|folder| folder.join("libpretend_driver.so"));
    places.find(|place| place.exists()).expect("cargo builds the pretended driver beside its tests")
}

/// Runs `test` in a process that finds the pretended driver.
fn with_pretended_driver(name: &str, test: impl FnOnce()) {
    const MARK: &str = "PRETENDED_DRIVER_IS_THERE";
    if std::env::var_os(MARK).is_some() {
        return test();
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    for link in ["libcuda.so.1", "libcublas.so.13"] {
        std::os::unix::fs::symlink(library(), folder.path().join(link)).expect("a link");
    }
    let output = Command::new(std::env::current_exe().expect("the test's own path"))
        .args([name, "--exact", "--nocapture"])
        .env("LD_LIBRARY_PATH", folder.path())
        .env(MARK, "1")
        .output()
        .expect("the test as a process");
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

#[test]
fn the_pretended_card_is_listed() {
    with_pretended_driver("the_pretended_card_is_listed", || {
        let cards = cuda::cards().expect("a driver");
        assert_eq!(cards.len(), 1);
        assert_eq!((cards[0].name.as_str(), cards[0].capability), ("Pretended card", (9, 0)));
        let device = cuda::CudaDevice::open(0).expect("a card");
        assert!(device.describe().contains("Pretended card"));
        let missing = cuda::CudaDevice::open(7).err().expect("there is one card").to_string();
        assert!(missing.contains("cuda:7") && missing.contains("shows 1"), "{missing}");
    });
}
