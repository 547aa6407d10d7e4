package overlay

import (
	"context"
	"errors"
	"net/netip"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/ownership"
)

// ErrAlone says that this host shares no store with others.
var ErrAlone = errors.New("an overlay network needs a store that the hosts share")

// errAlone adds what to do.
func errAlone() error {
	return driver.WithHint(ErrAlone, "set WEFT_STORE on every host (docker plugin set weft:latest WEFT_STORE=etcd://…), or create a network of this host with -o mode=bridge")
}

// nowhere is the directory of a host without a store. Networks of a time when it had one
// stay in the kernel as they are until they are removed.
type nowhere struct{}

// Found refuses.
func (nowhere) Found(context.Context, directory.Network, bool, []uint32) (directory.Network, error) {
	return directory.Network{}, errAlone()
}

// Join refuses.
func (nowhere) Join(context.Context, string) (directory.Network, error) {
	return directory.Network{}, errAlone()
}

// Lookup refuses.
func (nowhere) Lookup(context.Context, string) (directory.Network, bool, error) {
	return directory.Network{}, false, errAlone()
}

// Named knows none.
func (nowhere) Named(string) (directory.Network, bool) { return directory.Network{}, false }

// Attend does nothing.
func (nowhere) Attend(directory.Network) {}

// Forsake does nothing.
func (nowhere) Forsake(string) {}

// Publish does nothing.
func (nowhere) Publish(string, directory.Endpoint) {}

// Withdraw does nothing.
func (nowhere) Withdraw(string, string) {}

// Follows is false: nothing was ever seen.
func (nowhere) Follows(string) bool { return false }

// Remembered knows none.
func (nowhere) Remembered(string) []netip.Addr { return nil }

// Endpoints knows none.
func (nowhere) Endpoints(string) []directory.Endpoint { return nil }

// withoutStore completes the configuration of a host that has none.
func (c Config) withoutStore() Config {
	c.Directory = nowhere{}
	c.Me = func() ownership.Host { return "" }
	return c
}
