//! What is done on a card, as a list that is made once and run many times: launches, matrix products, clears and copies
//! with all their arguments. Running the list, or the graph captured from it, decides and allocates nothing.

use std::ffi::c_void;
use std::mem::size_of;
use std::ptr::null_mut;

use cudarc::cublas::{result as blas, sys as blas_sys};
use cudarc::driver::{result, sys};

use super::device::CudaDevice;
use super::error::{CudaError, DoingOnCard as _, driver_error};
use super::kernels::Kernel;

/// A value that can be handed to a kernel: its bytes are what the kernel's parameter holds.
///
/// # Safety
/// The type is plain data whose layout is that of the parameter in the kernel's source.
#[allow(unsafe_code, reason = "promises something about the layout of a type")]
pub(super) unsafe trait Argument: Copy {}
// SAFETY: plain numbers; u64 stands for addresses.
#[allow(unsafe_code, reason = "plain numbers")]
mod argument_types {
    unsafe impl super::Argument for i32 {}
    unsafe impl super::Argument for u64 {}
    unsafe impl super::Argument for i64 {}
    unsafe impl super::Argument for f32 {}
    unsafe impl super::Argument for f64 {}
}

/// Arguments of a launch, kept where the driver can be pointed at them.
#[derive(Default)]
pub(super) struct Arguments {
    /// Every argument begins at a number of its own, so all are aligned to 8 bytes.
    numbers: Vec<u64>,
    starts: Vec<usize>,
    sizes: Vec<usize>,
}

impl Arguments {
    /// Appends an argument.
    pub fn push<T: Argument>(&mut self, value: T) {
        let start = self.numbers.len();
        self.numbers.resize(start + size_of::<T>().div_ceil(8), 0);
        // SAFETY: the target was just made large enough, and `T` is plain data that needs at most its alignment of 8.
        unsafe { self.numbers.as_mut_ptr().add(start).cast::<T>().write(value) };
        self.starts.push(start);
        self.sizes.push(size_of::<T>());
    }
}

/// Collects arguments: `arguments![a, b, c]`.
macro_rules! arguments {
    ($($value:expr),* $(,)?) => {{
        let mut all = $crate::cuda::commands::Arguments::default();
        $(all.push($value);)*
        all
    }};
}
pub(super) use arguments;

/// A kernel with everything it needs.
struct Launch {
    kernel: Kernel,
    grid: (u32, u32, u32),
    block: (u32, u32, u32),
    /// The arguments' bytes, which `pointers` points into.
    _numbers: Box<[u64]>,
    pointers: Box<[*mut c_void]>,
}

/// A matrix product for K replicas: c = a b (+ c), row-major, `a` [rows, inner] and `b` [inner, columns] after
/// transposition.
#[derive(Clone, Copy, Debug)]
pub(super) struct Product {
    /// First operand: address, distance between replicas in numbers, whether it is stored transposed.
    pub a: (u64, i64, bool),
    /// Second operand, likewise.
    pub b: (u64, i64, bool),
    /// Result: address and distance between replicas.
    pub c: (u64, i64),
    pub rows: usize,
    pub columns: usize,
    pub inner: usize,
    /// Adds to what the result holds.
    pub accumulate: bool,
    pub replicas: usize,
}

/// How matrix products calculate; sums and everything else stay in 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixMode {
    /// 32-bit floats.
    F32,
    /// Factors rounded to 10 bits of mantissa on the way into the tensor cores.
    Tf32,
    /// Factors rounded to 7 bits of mantissa.
    Bf16,
}

enum Command {
    Launch(Launch),
    Multiply(Product),
    Clear { start: u64, bytes: usize },
    Copy { to: u64, from: u64, bytes: usize },
}

/// Commands in order.
pub(super) struct Commands {
    device: CudaDevice,
    mode: MatrixMode,
    list: Vec<Command>,
}

// SAFETY: the pointers of a launch point into the launch itself.
#[allow(unsafe_code, reason = "pointers into owned memory")]
unsafe impl Send for Commands {}

impl Commands {
    /// An empty list.
    pub fn new(device: &CudaDevice, mode: MatrixMode) -> Self {
        Commands { device: device.clone(), mode, list: Vec::new() }
    }

    /// The card they are for.
    pub fn device(&self) -> &CudaDevice {
        &self.device
    }

    /// Appends a launch of a kernel; refuses arguments that are not what its source declares.
    pub fn launch(
        &mut self,
        name: &str,
        grid: (usize, usize, usize),
        block: (u32, u32, u32),
        arguments: Arguments,
    ) -> Result<(), CudaError> {
        if grid.0 == 0 || grid.1 == 0 || grid.2 == 0 {
            return Ok(());
        }
        self.device.enter()?;
        let kernel = self.device.kernels()?.get(name)?;
        let fail = |problem: String| CudaError::Kernel { kernel: name.to_owned(), problem };
        if kernel.parameters != arguments.sizes {
            return Err(fail(format!(
                "its parameters have {:?} bytes and it was given {:?}",
                kernel.parameters, arguments.sizes
            )));
        }
        // Limits of every card since compute capability 3.0.
        if grid.0 > i32::MAX as usize || grid.1 > 65_535 || grid.2 > 65_535 {
            return Err(fail(format!(
                "a grid of {grid:?} blocks is more than a card can be asked for at once"
            )));
        }
        let mut numbers = arguments.numbers.into_boxed_slice();
        let start = numbers.as_mut_ptr();
        // SAFETY: every start lies within the numbers, which stay where they are: the box is never touched again.
        let pointer = |at: &usize| unsafe { start.add(*at) }.cast::<c_void>();
        let pointers = arguments.starts.iter().map(pointer).collect();
        let grid = (grid.0 as u32, grid.1 as u32, grid.2 as u32);
        self.list.push(Command::Launch(Launch { kernel, grid, block, _numbers: numbers, pointers }));
        Ok(())
    }

    /// Appends a matrix product.
    pub fn multiply(&mut self, product: Product) {
        if product.rows * product.columns * product.replicas > 0 {
            self.list.push(Command::Multiply(product));
        }
    }

    /// Appends filling with zeros.
    pub fn clear(&mut self, start: u64, bytes: usize) {
        self.list.push(Command::Clear { start, bytes });
    }

    /// Appends a copy within the card.
    pub fn copy(&mut self, to: u64, from: u64, bytes: usize) {
        self.list.push(Command::Copy { to, from, bytes });
    }

    /// How many commands there are.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Queues all commands on the card's stream.
    pub fn run(&self) -> Result<(), CudaError> {
        self.device.enter()?;
        let _queue = self.device.queue();
        self.list.iter().try_for_each(|command| self.queue(command))
    }

    /// Captures the commands of several lists of one card as one graph, without running them.
    pub fn capture(lists: &[&Commands]) -> Result<CapturedGraph, CudaError> {
        let Some(first) = lists.first() else {
            return Err(CudaError::Unsupported("a graph of no commands was asked for".to_owned()));
        };
        let device = &first.device;
        device.enter()?;
        let (queued, graph) = {
            let _queue = device.queue();
            let stream = device.stream();
            // SAFETY: the stream is ours and live, and the queue's lock keeps other threads' commands out of the capture.
            unsafe {
                result::stream::begin_capture(
                    stream,
                    sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED,
                )
            }
            .doing("beginning to capture a step")?;
            let queued =
                lists.iter().try_for_each(|own| own.list.iter().try_for_each(|command| own.queue(command)));
            // SAFETY: as above. The capture is ended in any case, so that the stream is usable after a failure.
            (queued, unsafe { result::stream::end_capture(stream) })
        };
        let graph = graph.doing("ending the capture of a step");
        queued?;
        let mut captured = CapturedGraph { device: device.clone(), graph: graph?, executable: null_mut() };
        // SAFETY: the graph was just captured.
        captured.executable =
            unsafe { result::graph::instantiate(captured.graph, sys::CUgraphInstantiate_flags(0)) }
                .doing("making a graph")?;
        Ok(captured)
    }

    fn queue(&self, command: &Command) -> Result<(), CudaError> {
        let stream = self.device.stream();
        match command {
            Command::Launch(launch) => {
                // SAFETY: the arguments have the sizes the kernel declares (checked when the command was made) and lie in
                // the launch; the addresses among them point into memory that who made the list keeps.
                let queued = unsafe {
                    sys::cuLaunchKernel(
                        launch.kernel.function,
                        launch.grid.0,
                        launch.grid.1,
                        launch.grid.2,
                        launch.block.0,
                        launch.block.1,
                        launch.block.2,
                        0,
                        stream,
                        launch.pointers.as_ptr().cast_mut(),
                        null_mut(),
                    )
                };
                queued
                    .result()
                    .map_err(|error| driver_error(format!("launching {}", launch.kernel.name), error))
            }
            Command::Multiply(product) => self.queue_product(product),
            Command::Clear { start, bytes } => {
                // SAFETY: the stretch lies in memory that who made the list keeps.
                unsafe { result::memset_d8_async(*start, 0, *bytes, stream) }.doing("clearing memory")
            }
            Command::Copy { to, from, bytes } => {
                // SAFETY: as above.
                unsafe { result::memcpy_dtod_async(*to, *from, *bytes, stream) }.doing("copying on the card")
            }
        }
    }

    fn queue_product(&self, product: &Product) -> Result<(), CudaError> {
        let one: f32 = 1.0;
        let beta: f32 = if product.accumulate { 1.0 } else { 0.0 };
        let operation = |transposed: bool| match transposed {
            true => blas_sys::cublasOperation_t::CUBLAS_OP_T,
            false => blas_sys::cublasOperation_t::CUBLAS_OP_N,
        };
        let compute = match self.mode {
            MatrixMode::F32 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            MatrixMode::Tf32 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_TF32,
            MatrixMode::Bf16 => blas_sys::cublasComputeType_t::CUBLAS_COMPUTE_32F_FAST_16BF,
        };
        let Product { a, b, c, rows, columns, inner, replicas, .. } = *product;
        // cuBLAS is column-major: it is asked for the transpose, c' = b' a'.
        let leading = |stored_transposed: bool, rows: usize, columns: usize| {
            if stored_transposed { rows } else { columns }
        };
        let float = blas_sys::cudaDataType_t::CUDA_R_32F;
        // SAFETY: the operands lie in memory that who made the list keeps, and have the sizes that the extents say; the
        // factors are read before the call returns; the queue's lock is held.
        unsafe {
            blas::gemm_strided_batched_ex(
                self.device.blas(),
                operation(b.2),
                operation(a.2),
                columns as i32,
                rows as i32,
                inner as i32,
                (&raw const one).cast(),
                b.0 as *const c_void,
                float,
                leading(b.2, inner, columns) as i32,
                b.1,
                a.0 as *const c_void,
                float,
                leading(a.2, rows, inner) as i32,
                a.1,
                (&raw const beta).cast(),
                c.0 as *mut c_void,
                float,
                columns as i32,
                c.1,
                replicas as i32,
                compute,
                blas_sys::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )
        }
        .doing("multiplying matrices")
    }
}

/// A list of commands as one thing the card can be asked for.
pub(super) struct CapturedGraph {
    device: CudaDevice,
    graph: sys::CUgraph,
    executable: sys::CUgraphExec,
}

// SAFETY: a graph may be launched from any thread, one at a time, which the queue's lock sees to.
#[allow(unsafe_code, reason = "driver handles are plain pointers to the compiler")]
unsafe impl Send for CapturedGraph {}

impl CapturedGraph {
    /// Queues the whole graph on the card's stream.
    pub fn run(&self) -> Result<(), CudaError> {
        self.device.enter()?;
        let _queue = self.device.queue();
        // SAFETY: the graph is instantiated and live; what its commands use is kept by who captured it.
        unsafe { result::graph::launch(self.executable, self.device.stream()) }.doing("launching a step")
    }
}

impl Drop for CapturedGraph {
    fn drop(&mut self) {
        let _ = self.device.synchronize();
        // SAFETY: ours, and no launch of it is under way. Errors cannot be acted upon.
        unsafe {
            if !self.executable.is_null() {
                let _ = result::graph::exec_destroy(self.executable);
            }
            let _ = result::graph::destroy(self.graph);
        }
    }
}
