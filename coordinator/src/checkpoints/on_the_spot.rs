//! A folder of objects whose every operation is done before the caller goes on.
//!
//! The local store hands its work to the runtime's blocking threads, which finish in an order that nobody can repeat. On a
//! thread without a runtime it does the work itself: that is what happens here, while the caller waits. For a runtime on
//! which nothing else runs meanwhile, and only there (`Execution::OnTheSpot`).

use std::fmt;
use std::sync::Arc;

use futures::executor::block_on;
use futures::stream::{BoxStream, StreamExt as _};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};

/// The store.
#[derive(Debug)]
pub struct OnTheSpot(pub Arc<LocalFileSystem>);

impl fmt::Display for OnTheSpot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "OnTheSpot({})", self.0)
    }
}

/// Does `work` on a thread without a runtime and waits for it.
fn now<T: Send>(work: impl Future<Output = Result<T>> + Send) -> Result<T> {
    let done = std::thread::scope(|scope| scope.spawn(|| block_on(work)).join());
    done.unwrap_or_else(|_| {
        Err(Error::Generic { store: "OnTheSpot", source: "the store's work broke off".into() })
    })
}

#[tonic::async_trait]
impl ObjectStore for OnTheSpot {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        now(self.0.put_opts(location, payload, opts))
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        opts: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let upload = now(self.0.put_multipart_opts(location, opts))?;
        Ok(Box::new(Upload(upload)))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        now(async {
            let mut found = self.0.get_opts(location, options).await?;
            let (meta, range) = (found.meta.clone(), found.range.clone());
            let attributes = std::mem::take(&mut found.attributes);
            let bytes = found.bytes().await?;
            let payload = GetResultPayload::Stream(futures::stream::iter([Ok(bytes)]).boxed());
            Ok(GetResult { payload, meta, range, attributes, extensions: Default::default() })
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = Arc::clone(&self.0);
        let delete = move |location: Result<Path>| {
            let one = futures::stream::iter([location]).boxed();
            now(async { store.delete_stream(one).next().await.unwrap_or(Err(gone())) })
        };
        locations.map(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let found = now(async { Ok(self.0.list(prefix).collect::<Vec<_>>().await) });
        let mut found = found.unwrap_or_else(|error| vec![Err(error)]);
        // A folder's order is its file system's.
        found.sort_by_cached_key(|item| item.as_ref().map(|meta| meta.location.to_string()).ok());
        futures::stream::iter(found).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        now(self.0.list_with_delimiter(prefix))
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        now(self.0.copy_opts(from, to, options))
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        now(self.0.rename_opts(from, to, options))
    }
}

fn gone() -> Error {
    Error::Generic { store: "OnTheSpot", source: "a deletion gave no answer".into() }
}

#[derive(Debug)]
struct Upload(Box<dyn MultipartUpload>);

#[tonic::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let done = now(self.0.put_part(data));
        Box::pin(std::future::ready(done))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        now(self.0.complete())
    }

    async fn abort(&mut self) -> Result<()> {
        now(self.0.abort())
    }
}
