//! Kernels on the processor: a library compiled from their sources, if one is named.

use std::ffi::{CString, c_char, c_void};
use std::sync::OnceLock;

use libloading::Library;

type Bind = unsafe extern "C" fn(*const c_char, *const *mut c_void) -> *mut c_void;
type Run = unsafe extern "C" fn(*mut c_void, *const u32);
type Release = unsafe extern "C" fn(*mut c_void);

struct Emulation {
    bind: Bind,
    run: Run,
    release: Release,
    _library: Library,
}

/// Whether kernels and matrix products are calculated at all.
pub fn is_on() -> bool {
    emulation().is_some()
}

fn emulation() -> Option<&'static Emulation> {
    static EMULATION: OnceLock<Option<Emulation>> = OnceLock::new();
    EMULATION.get_or_init(load).as_ref()
}

fn load() -> Option<Emulation> {
    let path = std::env::var_os("PRETEND_KERNELS")?;
    // SAFETY: whoever sets the variable names a library made by emulation/build.sh.
    let loaded = unsafe { Library::new(&path) }.and_then(|library| {
        // SAFETY: these are the functions' types in emulation/kernels.cpp.
        let (bind, run, release) = unsafe {
            (
                *library.get::<Bind>(b"emulated_bind")?,
                *library.get::<Run>(b"emulated_run")?,
                *library.get::<Release>(b"emulated_release")?,
            )
        };
        Ok(Emulation { bind, run, release, _library: library })
    });
    match loaded {
        Ok(emulation) => Some(emulation),
        Err(error) => {
            eprintln!("pretend driver: {}: {error}", path.display());
            std::process::exit(1)
        }
    }
}

/// A kernel with a copy of its arguments, grid and block.
pub struct Bound {
    call: *mut c_void,
    extents: [u32; 6],
}

// SAFETY: the call is plain data that only this value refers to.
unsafe impl Send for Bound {}

impl Bound {
    /// The kernel of this name with these arguments; `None` where kernels do nothing. An unknown kernel ends the process.
    ///
    /// # Safety
    /// `arguments` must point to as many pointers to arguments as the kernel has parameters.
    pub unsafe fn new(name: &str, arguments: *const *mut c_void, extents: [u32; 6]) -> Option<Self> {
        let emulation = emulation()?;
        let symbol = CString::new(name).ok()?;
        // SAFETY: promised by the caller; the name ends in zero.
        let call = unsafe { (emulation.bind)(symbol.as_ptr(), arguments) };
        if call.is_null() {
            eprintln!("pretend driver: there is no kernel {name}");
            std::process::exit(1);
        }
        Some(Bound { call, extents })
    }

    /// Runs it.
    pub fn run(&self) {
        if let Some(emulation) = emulation() {
            // SAFETY: the call was made by `bind` and is released once, in `drop`.
            unsafe { (emulation.run)(self.call, self.extents.as_ptr()) };
        }
    }
}

impl Drop for Bound {
    fn drop(&mut self) {
        if let Some(emulation) = emulation() {
            // SAFETY: as above.
            unsafe { (emulation.release)(self.call) };
        }
    }
}
