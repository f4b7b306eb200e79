//! Sockets, clock and the packet pump around `callyard-proto`.
