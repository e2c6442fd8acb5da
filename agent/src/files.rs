//! The agent's files, read and written where it may block.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use plateau_machine::Execution;

/// Reads and writes files.
#[derive(Clone, Copy)]
pub struct Files(pub Execution);

impl Files {
    async fn run<T: Send + 'static>(
        self,
        path: &Path,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let path = path.to_owned();
        self.0.run(move || work(&path)).await.map_err(io::Error::other)?
    }

    /// Whether something is there.
    pub async fn exists(self, path: &Path) -> bool {
        self.run(path, |path| path.try_exists()).await.unwrap_or(false)
    }

    /// Makes a folder and those above it.
    pub async fn create_folder(self, path: &Path) -> io::Result<()> {
        self.run(path, |path| std::fs::create_dir_all(path)).await
    }

    /// Removes a folder and everything in it.
    pub async fn remove_folder(self, path: &Path) -> io::Result<()> {
        self.run(path, |path| std::fs::remove_dir_all(path)).await
    }

    /// Removes a folder if it is empty.
    pub async fn remove_empty_folder(self, path: &Path) -> io::Result<()> {
        self.run(path, |path| std::fs::remove_dir(path)).await
    }

    /// The bytes of a file.
    pub async fn read(self, path: &Path) -> io::Result<Vec<u8>> {
        self.run(path, |path| std::fs::read(path)).await
    }

    /// Writes a file.
    pub async fn write(self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        self.run(path, move |path| std::fs::write(path, bytes)).await
    }

    /// Opens a file for reading.
    pub async fn open(self, path: &Path) -> io::Result<File> {
        self.run(path, |path| File::open(path)).await
    }

    /// Creates a file.
    pub async fn create(self, path: &Path) -> io::Result<File> {
        self.run(path, |path| File::create(path)).await
    }

    /// The next bytes of an open file, at most so many; none at its end.
    pub async fn read_piece(self, mut file: File, most: usize) -> io::Result<(File, Vec<u8>)> {
        let read = move || {
            let mut bytes = vec![0; most];
            let count = file.read(&mut bytes)?;
            bytes.truncate(count);
            Ok((file, bytes))
        };
        self.0.run(read).await.map_err(io::Error::other)?
    }

    /// Writes on in an open file.
    pub async fn write_piece(self, mut file: File, bytes: Vec<u8>) -> io::Result<File> {
        let write = move || file.write_all(&bytes).map(|()| file);
        self.0.run(write).await.map_err(io::Error::other)?
    }
}
