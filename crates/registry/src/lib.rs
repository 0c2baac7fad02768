//! Images on the wire: a distribution client with authentication, retries and verification.
