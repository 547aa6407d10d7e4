package names

import (
	"io"
	"net/netip"
	"sync"
	"time"
)

// maxConnsFrom is how many connections one client has at a Front; one too many is closed.
const maxConnsFrom = 8

// connections are those that end with whoever serves them. The zero value is ready, and
// safe for concurrent use.
type connections struct {
	mu     sync.Mutex
	open   map[io.Closer]netip.Addr // from whom
	closed bool
}

// keep makes close end a connection. It reports false, and keeps nothing, if that has
// happened, or if there are so many from this client.
func (k *connections) keep(c io.Closer, from netip.Addr, most int) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return false
	}
	for _, other := range k.open {
		if other == from {
			most--
		}
	}
	if most <= 0 {
		return false
	}
	if k.open == nil {
		k.open = map[io.Closer]netip.Addr{}
	}
	k.open[c] = from
	return true
}

// drop closes one connection, kept or not.
func (k *connections) drop(c io.Closer) {
	k.mu.Lock()
	delete(k.open, c)
	k.mu.Unlock()
	_ = c.Close() // nothing is lost with it
}

// close ends all of them.
func (k *connections) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for c := range k.open {
		_ = c.Close() // whoever reads there is told
	}
}

// patience is how long a connection may be silent where so many are served.
func patience(served chan struct{}) time.Duration {
	if len(served) > maxConns/2 {
		return busyTime
	}
	return idleTime
}
