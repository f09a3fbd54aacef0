//! SYNs that no client has sent, to a listener that holds connects.
