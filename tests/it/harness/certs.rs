//! Certificates for one test: an authority, a server and a client, made on the spot.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use selvedge::cli::servers::TlsFiles;

/// PEM files of one authority.
pub struct Certs {
    /// The authority.
    pub ca: PathBuf,
    /// The server's, for 127.0.0.1 and localhost.
    pub server: (PathBuf, PathBuf),
    /// A client's.
    pub client: (PathBuf, PathBuf),
}

impl Certs {
    /// Makes them in this directory.
    pub fn in_dir(dir: &Path) -> Certs {
        std::fs::create_dir_all(dir).unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let ca = dir.join("ca.pem");
        std::fs::write(&ca, authority.pem()).unwrap();
        let issue = |name: &str| {
            let key = KeyPair::generate().unwrap();
            let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
            let cert = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
            let files = (dir.join(format!("{name}.pem")), dir.join(format!("{name}-key.pem")));
            std::fs::write(&files.0, cert.pem()).unwrap();
            std::fs::write(&files.1, key.serialize_pem()).unwrap();
            files
        };
        Certs { server: issue("server"), client: issue("client"), ca }
    }

    /// For a server that demands client certificates, or not.
    pub fn server_files(&self, verify_clients: bool) -> TlsFiles {
        let (cert, key) = self.server.clone();
        TlsFiles { cert, key, ca: self.ca.clone(), verify_clients }
    }
}
