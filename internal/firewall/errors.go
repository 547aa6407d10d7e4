package firewall

import "errors"

// What a caller can act on. Every error of this package wraps one of these, or
// the kernel's own errno.
var (
	// ErrInvalid says that a fact cannot be true; the message names it. Nothing
	// was changed.
	ErrInvalid = errors.New("invalid fact")
	// ErrConflict says that the fact contradicts one already in force, such as a
	// host port that another endpoint publishes. Nothing was changed.
	ErrConflict = errors.New("contradicts what is in force")
	// ErrUnknownBridge says that a port names a bridge of no known network: add
	// the network first.
	ErrUnknownBridge = errors.New("no network has this bridge: add the network first")
	// ErrNoNFT says that the nft program is missing or cannot run: install
	// nftables 1.0 or later, or set Config.NftPath.
	ErrNoNFT = errors.New("nft does not run: install nftables 1.0 or later")
	// ErrNoNFTables says that the kernel refused the rules: it needs nf_tables
	// with inet, nat, fib and masquerade support (Linux 5.6 or later).
	ErrNoNFTables = errors.New("the kernel does not take weft's rules: it needs nf_tables with inet, nat and fib (Linux 5.6 or later)")
	// ErrNoIPTables says that an iptables filter table stands in the way and the
	// iptables program of its flavour is missing: install it, or set Config.IPTables.
	ErrNoIPTables = errors.New("iptables does not run: install the flavour that holds the host's filter table")
	// ErrFirewalld says that firewalld runs and refuses weft's zone; the message
	// has its answer. Look at its log, and at its lockdown if it denies access.
	ErrFirewalld = errors.New("firewalld refuses weft's bridges: see its answer and its log, and lift its lockdown or make zone weft yourself")
)
