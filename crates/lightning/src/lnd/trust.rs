//! Knowing a node by its certificate.

use std::sync::{Arc, Mutex, PoisonError};

use nexus_core::Hash32;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::Trust;

const MAX_FILE_BYTES: u64 = 64 * 1024;

/// Accepts one certificate and no other, by its SHA-256. LND signs its own with CA:TRUE, which ordinary verification
/// refuses as a server's; names and dates add nothing to a pin. That the server holds the certificate's key is checked.
#[derive(Debug)]
struct Pinned {
    sha256: Hash32,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if Hash32::sha256(end_entity) == self.sha256 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// What is trusted now. A renewed certificate file is taken at the next connection.
pub(super) struct Truster {
    trust: Trust,
    made: Mutex<Option<(Hash32, Arc<ClientConfig>)>>,
}

impl Truster {
    pub(super) fn new(trust: Trust) -> Self {
        Self { trust, made: Mutex::default() }
    }

    pub(super) async fn config(&self) -> Result<Arc<ClientConfig>, String> {
        let pin = match &self.trust {
            Trust::File(path) => {
                let read = tokio::fs::metadata(path).await;
                let read = match read {
                    Ok(meta) if meta.len() > MAX_FILE_BYTES => {
                        return Err(format!("{} is no certificate", path.display()));
                    }
                    Ok(_) => tokio::fs::read(path).await,
                    Err(error) => Err(error),
                };
                let bytes = read.map_err(|error| format!("cannot read the certificate {}: {error}", path.display()))?;
                let der = CertificateDer::from_pem_slice(&bytes)
                    .map_err(|_| format!("{} holds no certificate in PEM", path.display()))?;
                Some(Hash32::sha256(&der))
            }
            Trust::Fingerprint(sha256) => Some(*sha256),
            Trust::PublicRoots => None,
        };
        let key = pin.unwrap_or(Hash32::from_bytes([0; 32]));
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((for_pin, config)) = &*made
            && *for_pin == key
        {
            return Ok(config.clone());
        }
        let config = Arc::new(build(pin).map_err(|error| error.to_string())?);
        *made = Some((key, config.clone()));
        Ok(config)
    }
}

fn build(pin: Option<Hash32>) -> Result<ClientConfig, Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
    let mut config = match pin {
        Some(sha256) => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned { sha256, provider }))
            .with_no_client_auth(),
        None => {
            let roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
            builder.with_root_certificates(roots).with_no_client_auth()
        }
    };
    // HTTP/1.1 alone: a connection is one request after another, and its gate knows whose bytes leave.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}
