//! The kernels: PTX that is checked in beside its sources, loaded on first use, and what each of them takes.
//!
//! The PTX of `lab/kernels/*.cu` is made by `lab/kernels/build.sh`; neither building nor running Plateau needs a compiler for
//! cards. The driver translates it for the card at hand and keeps the result in its own cache.

use std::collections::HashMap;
use std::ffi::CString;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::{result, sys};

use super::error::{CudaError, driver_error};

/// The modules: name and PTX.
const MODULES: [(&str, &str); 9] = [
    ("attention", include_str!("../../kernels/ptx/attention.ptx")),
    ("elementwise", include_str!("../../kernels/ptx/elementwise.ptx")),
    ("fire", include_str!("../../kernels/ptx/fire.ptx")),
    ("gather", include_str!("../../kernels/ptx/gather.ptx")),
    ("loss", include_str!("../../kernels/ptx/loss.ptx")),
    ("norm", include_str!("../../kernels/ptx/norm.ptx")),
    ("optimizer", include_str!("../../kernels/ptx/optimizer.ptx")),
    ("rotary", include_str!("../../kernels/ptx/rotary.ptx")),
    ("sums", include_str!("../../kernels/ptx/sums.ptx")),
];

/// A kernel ready to be launched, and the bytes of each of its parameters.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    pub name: String,
    pub function: sys::CUfunction,
    pub parameters: Vec<usize>,
}

// SAFETY: a function handle may be used from any thread whose current context is its module's.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Send for Kernel {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Sync for Kernel {}

/// All kernels of one card.
pub(super) struct Kernels {
    /// Of each kernel, its module and its parameters' bytes.
    known: HashMap<String, (usize, Vec<usize>)>,
    modules: Mutex<Vec<Option<Module>>>,
}

/// A loaded module.
struct Module(sys::CUmodule);

// SAFETY: as for a kernel's function handle.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Send for Module {}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: loaded by us and unloaded once; its kernels are not used any more, since the device goes. An error cannot
        // be acted upon.
        let _ = unsafe { result::module::unload(self.0) };
    }
}

impl Kernels {
    /// Reads which kernels there are. The card's context must be current whenever one is asked for.
    pub fn load() -> Result<Self, CudaError> {
        let mut known = HashMap::new();
        for (place, (module, ptx)) in MODULES.iter().enumerate() {
            for (name, parameters) in entries(ptx) {
                if known.insert(name.clone(), (place, parameters)).is_some() {
                    let problem = format!("module {module} defines it a second time");
                    return Err(CudaError::Kernel { kernel: name, problem });
                }
            }
        }
        Ok(Kernels { known, modules: Mutex::new(MODULES.iter().map(|_| None).collect()) })
    }

    /// The kernel of this name.
    pub fn get(&self, name: &str) -> Result<Kernel, CudaError> {
        let unknown =
            || CudaError::Kernel { kernel: name.to_owned(), problem: "there is no such kernel".to_owned() };
        let (place, parameters) = self.known.get(name).ok_or_else(unknown)?;
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match &modules[*place] {
            Some(module) => module.0,
            None => {
                let (title, ptx) = MODULES[*place];
                let image = CString::new(ptx).map_err(|_| unknown())?;
                // SAFETY: the image is a text that ends in zero, as the driver expects PTX.
                let module = unsafe { result::module::load_data(image.as_ptr().cast()) }
                    .map_err(|error| driver_error(format!("loading the kernels of {title}"), error))?;
                modules[*place] = Some(Module(module));
                module
            }
        };
        let symbol = CString::new(name).map_err(|_| unknown())?;
        // SAFETY: the module was loaded above and is live.
        let function = unsafe { result::module::get_function(module, symbol) }
            .map_err(|error| driver_error(format!("looking up kernel {name}"), error))?;
        Ok(Kernel { name: name.to_owned(), function, parameters: parameters.clone() })
    }
}

/// The kernels of a PTX text with the bytes of each of their parameters, in order.
fn entries(ptx: &str) -> Vec<(String, Vec<usize>)> {
    let mut all = Vec::new();
    for entry in ptx.split(".entry ").skip(1) {
        let Some((name, rest)) = entry.split_once('(') else { continue };
        let Some((parameters, _)) = rest.split_once(')') else { continue };
        let sizes =
            parameters.split(',').filter(|part| part.contains(".param")).map(size_of_parameter).collect();
        all.push((name.trim().to_owned(), sizes));
    }
    all
}

/// Bytes of a declaration like `.param .u64 name` or `.param .align 8 .b8 name[88]`.
fn size_of_parameter(declaration: &str) -> usize {
    if let Some((_, count)) = declaration.split_once('[') {
        return count.trim_end().trim_end_matches(']').parse().unwrap_or(0);
    }
    let bits = declaration.split_whitespace().find_map(|word| {
        let kind = word.strip_prefix('.')?;
        kind.strip_prefix(['u', 's', 'b', 'f'])?.parse::<usize>().ok()
    });
    bits.unwrap_or(0) / 8
}

#[cfg(test)]
mod tests {
    use super::{Kernels, MODULES, entries};

    #[test]
    fn every_kernel_is_found_with_its_parameters() {
        let kernels = Kernels::load().unwrap();
        let parameters =
            |name: &str| kernels.known.get(name).map(|(_, parameters)| parameters.clone()).unwrap();
        assert_eq!(parameters("add"), [8, 8, 8, 8]);
        assert_eq!(parameters("add_segments"), [8, 8, 8, 4, 8, 4]);
        assert_eq!(parameters("adam"), [8, 8, 8, 8, 8, 8, 8, 4, 8, 8, 8, 8, 8]);
        // The call's description goes by value.
        let attention = parameters("attention_forward_8_4");
        assert_eq!(attention, [8, 8, 8, 8, 8, std::mem::size_of::<crate::cuda::lower::AttentionCall>(), 8]);
        let fire = std::mem::size_of::<crate::cuda::lower::FireCall>();
        assert_eq!(parameters("fire_forward"), [8, fire]);
        assert!(kernels.known.len() > 35, "{}", kernels.known.len());
        for (module, ptx) in MODULES {
            for (name, parameters) in entries(ptx) {
                assert!(!parameters.contains(&0), "{module}: {name} has a parameter of unknown size");
            }
        }
    }

    #[test]
    fn ptx_is_for_cards_from_ampere_on() {
        for (module, ptx) in MODULES {
            assert!(ptx.contains(".target sm_80"), "{module}");
        }
    }
}
