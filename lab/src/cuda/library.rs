//! Is there a driver, is there cuBLAS, and which cards are there: asked before anything is called, since calling a missing
//! library ends the process.

use cudarc::driver::{result, sys};

use super::error::{CudaError, DoingOnCard as _};

/// CUDA version of the kernels' PTX (9.0), as the driver counts it.
const NEEDED_VERSION: i32 = 13_000;

/// A card as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Card {
    /// Its number: `cuda:N`.
    pub ordinal: usize,
    /// Its name.
    pub name: String,
    /// Its address on the bus, `0000:3b:00`, by which the system's log names it; `None`: the driver does not say.
    pub address: Option<String>,
    /// Bytes of memory.
    pub memory: u64,
    /// Major and minor compute capability.
    pub capability: (i32, i32),
    /// The newest CUDA version the driver supports: major, minor.
    pub driver: (i32, i32),
}

/// Loads the driver and says which CUDA version it supports (1000 major + 10 minor).
fn driver_version() -> Result<i32, CudaError> {
    // SAFETY: opens a shared library by its system-wide name; running its initialisers is what asking for CUDA means.
    if !unsafe { sys::is_culib_present() } {
        return Err(CudaError::LibraryMissing {
            library: "the NVIDIA driver",
            names: "libcuda.so, libcuda.so.1".to_owned(),
            remedy: "install it (version 580 or later), or train on the processor with `--device cpu`",
        });
    }
    let mut version = 0;
    // SAFETY: the library is there and the pointer is that of a live integer.
    unsafe { sys::cuDriverGetVersion(&raw mut version) }.result().doing("asking for the driver's version")?;
    Ok(version)
}

/// Makes the driver ready, or says why it cannot be used.
pub(super) fn initialise() -> Result<(), CudaError> {
    let version = driver_version()?;
    if version < NEEDED_VERSION {
        let (major, minor) = split(version);
        return Err(CudaError::DriverTooOld {
            found: format!("{major}.{minor}"),
            needed: "13.0",
            driver: "580",
        });
    }
    result::init().doing("initialising the driver")
}

/// Refuses to go on without cuBLAS, which training needs beside the driver.
pub fn require_cublas() -> Result<(), CudaError> {
    // SAFETY: opens a shared library by its system-wide name, as above.
    if unsafe { cudarc::cublas::sys::is_culib_present() } {
        return Ok(());
    }
    Err(CudaError::LibraryMissing {
        library: "NVIDIA's cuBLAS",
        names: "libcublas.so, libcublas.so.13, libcublas.so.12".to_owned(),
        remedy: "install it (the CUDA toolkit has it, and the PyPI package nvidia-cublas, in site-packages/nvidia/cu13/lib) \
                 and add its folder to LD_LIBRARY_PATH",
    })
}

/// All cards the driver shows; an error says why there can be none.
pub fn cards() -> Result<Vec<Card>, CudaError> {
    initialise()?;
    let driver = split(driver_version()?);
    let count = usize::try_from(result::device::get_count().doing("counting cards")?).unwrap_or(0);
    (0..count).map(|ordinal| card(ordinal, driver)).collect()
}

/// The card of this number.
pub(super) fn card_of(ordinal: usize) -> Result<Card, CudaError> {
    let all = cards()?;
    let count = all.len();
    all.into_iter().nth(ordinal).ok_or(CudaError::NoSuchCard { ordinal, count })
}

fn card(ordinal: usize, driver: (i32, i32)) -> Result<Card, CudaError> {
    let device = handle(ordinal)?;
    let attribute = |attribute| {
        // SAFETY: the handle came from the driver.
        unsafe { result::device::get_attribute(device, attribute) }.doing("asking for a card's properties")
    };
    let major = attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let place = [
        sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID,
        sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_PCI_BUS_ID,
        sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID,
    ];
    let place: Result<Vec<i32>, CudaError> = place.into_iter().map(attribute).collect();
    let address = match place.as_deref() {
        Ok([domain, bus, device]) => Some(format!("{domain:04x}:{bus:02x}:{device:02x}")),
        _ => None,
    };
    // SAFETY: as above.
    let memory = unsafe { result::device::total_mem(device) }.doing("asking for a card's memory")?;
    Ok(Card {
        ordinal,
        name: result::device::get_name(device).doing("asking for a card's name")?,
        address,
        memory: memory as u64,
        capability: (major, minor),
        driver,
    })
}

/// The driver's handle of a card.
pub(super) fn handle(ordinal: usize) -> Result<sys::CUdevice, CudaError> {
    let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
    result::device::get(number).doing("opening a card")
}

fn split(version: i32) -> (i32, i32) {
    (version / 1000, version % 1000 / 10)
}
