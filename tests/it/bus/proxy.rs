//! A TCP proxy that can lose the server's answers while requests still arrive.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::broadcast,
};

pub struct Proxy {
    port: u16,
    /// Bytes from the server go nowhere.
    deaf: Arc<AtomicBool>,
    /// Bytes lost that way: proof that the fault happened.
    lost: Arc<AtomicU64>,
    cut: broadcast::Sender<()>,
}

impl Proxy {
    pub async fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (deaf, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (cut, _) = broadcast::channel(1);
        let proxy = Self { port, deaf: deaf.clone(), lost: lost.clone(), cut: cut.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (deaf, lost, mut cut) = (deaf.clone(), lost.clone(), cut.subscribe());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream)).await else { return };
                    tokio::select! {
                        () = carry(client, server, &deaf, &lost) => {}
                        _ = cut.recv() => {}
                    }
                });
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    pub fn lose_answers(&self, yes: bool) {
        self.deaf.store(yes, Ordering::SeqCst);
    }

    pub fn lost_bytes(&self) -> u64 {
        self.lost.load(Ordering::SeqCst)
    }

    /// Ends every connection; new ones are taken.
    pub fn cut(&self) {
        let _ = self.cut.send(());
    }
}

async fn carry(client: TcpStream, server: TcpStream, deaf: &AtomicBool, lost: &AtomicU64) {
    let (mut client_read, mut client_write) = client.into_split();
    let (mut server_read, mut server_write) = server.into_split();
    let up = async {
        let _ = tokio::io::copy(&mut client_read, &mut server_write).await;
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = server_read.read(&mut buffer).await {
            if deaf.load(Ordering::SeqCst) {
                lost.fetch_add(n as u64, Ordering::SeqCst);
            } else if client_write.write_all(&buffer[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! { () = up => {}, () = down => {} }
}
