package overlay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// again is the pause after entries could not be programmed.
const again = time.Second

// tunnel is one network that this host programs.
type tunnel struct {
	mu  sync.Mutex // one change of it at a time
	net driver.Network
	// up says that bridge and device were made; reconcile reads it without the lock.
	up atomic.Bool
	// programmed is what the kernel has, nil if it has to be asked.
	programmed *kernel.Forwarding
}

func (t *tunnel) lock() (unlock func()) {
	t.mu.Lock()
	return t.mu.Unlock
}

// Attend follows a network of an earlier process. All of them have to be attended
// before the directory runs: it takes what is not for left over.
func (k *Kind) Attend(n driver.Network) {
	if k.cfg.Directory != nil && n.Shared != nil {
		k.attend(n)
	}
}

// attend follows a network from now on.
func (k *Kind) attend(n driver.Network) *tunnel {
	k.mu.Lock()
	t := k.tunnels[n.Shared.UUID]
	if t == nil {
		t = &tunnel{net: n}
		k.tunnels[n.Shared.UUID] = t
		k.cfg.Directory.Attend(record(n))
	}
	k.mu.Unlock()
	return t
}

func (k *Kind) forsake(uuid string) {
	k.mu.Lock()
	t := k.tunnels[uuid]
	delete(k.tunnels, uuid)
	k.mu.Unlock()
	if t != nil {
		defer t.lock()()
		t.up.Store(false)
	}
	k.cfg.Directory.Forsake(uuid)
}

// Changed says that the directory has news of a network: an empty UUID means all.
func (k *Kind) Changed(uuid string) {
	k.mu.Lock()
	if uuid != "" {
		k.dirty[uuid] = true
	}
	k.mu.Unlock()
	select {
	case k.wake <- struct{}{}:
	default:
	}
}

// Run programs what the directory says until ctx ends.
func (k *Kind) Run(ctx context.Context) error {
	retry := time.NewTicker(again)
	defer retry.Stop()
	for {
		k.followUnderlay(ctx)
		k.followAddresses()
		for _, uuid := range k.takeDirty() {
			if err := k.program(uuid, false); err != nil {
				k.log.Error("program a network's entries; it is tried again", "network", uuid, "err", err)
				k.mu.Lock()
				k.dirty[uuid] = true
				k.mu.Unlock()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-k.wake:
		case <-retry.C:
		}
	}
}

// followUnderlay moves the tunnels when this host has another underlay address.
func (k *Kind) followUnderlay(ctx context.Context) {
	if k.cfg.Directory == nil {
		return
	}
	at := k.cfg.Underlay()
	k.mu.Lock()
	moved := at.IsValid() && k.underlay.IsValid() && at != k.underlay
	if at.IsValid() {
		k.underlay = at
	}
	tunnels := slices.Collect(maps.Values(k.tunnels))
	k.mu.Unlock()
	if !moved {
		return
	}
	k.log.Info("other hosts reach this one at another address", "address", at)
	if k.cfg.Moved != nil {
		k.cfg.Moved()
	}
	for _, t := range tunnels {
		if err := k.EnsureNetwork(ctx, t.net); err != nil {
			k.log.Error("move a tunnel; reconcile tries again", "network", t.net.ID, "err", err)
		}
	}
}

func (k *Kind) takeDirty() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := slices.Sorted(maps.Keys(k.dirty))
	clear(k.dirty)
	return out
}

// program makes the kernel have a network's entries. whole asks the kernel what it
// has; else what was programmed last counts. As long as the directory has not seen the
// network, nothing is taken away, and what it remembers is added.
func (k *Kind) program(uuid string, whole bool) error {
	k.mu.Lock()
	t := k.tunnels[uuid]
	k.mu.Unlock()
	if t == nil {
		return nil
	}
	defer t.lock()()
	if !t.up.Load() {
		return nil
	}
	if !k.cfg.Directory.Follows(uuid) {
		return k.recall(t, uuid)
	}
	if whole || t.programmed == nil {
		have, err := k.entries(t)
		if errors.Is(err, kernel.ErrNotFound) {
			return nil // reconcile makes the device, and comes again
		}
		if err != nil {
			return err
		}
		t.programmed = &have
	}
	at, err := k.at(t)
	if err != nil {
		return err
	}
	want := forwarding(at, k.cfg.Me(), k.cfg.Directory.Endpoints(uuid))
	changes := kernel.DiffForwarding(want, *t.programmed)
	if changes.Len() == 0 {
		return nil
	}
	if err := k.cfg.Kernel.ApplyForwarding(changes); err != nil {
		t.programmed = nil
		return err
	}
	t.programmed = &want
	k.announce(arrived(want, changes.Add.Neighbors))
	return nil
}

// arrived are the neighbours that came on other hosts. A container here must not hear of
// its own address: while it looks for duplicates, it would take that for one.
func arrived(want kernel.Forwarding, came []kernel.Neighbor) []kernel.Neighbor {
	remote := make(map[kernel.MAC]bool)
	for _, e := range want.FDB {
		remote[e.MAC] = true
	}
	return slices.DeleteFunc(slices.Clone(came), func(n kernel.Neighbor) bool { return !remote[n.MAC] })
}

// announce tells the containers here of addresses that came. Many at once are those of
// a host or a network that was away, and nobody waits for each of them.
func (k *Kind) announce(came []kernel.Neighbor) {
	const most = 64
	if len(came) > most {
		return
	}
	if err := k.cfg.Kernel.Announce(came); err != nil {
		k.log.Debug("tell containers of new addresses", "err", err)
	}
}

// entries asks the kernel.
func (k *Kind) entries(t *tunnel) (kernel.Forwarding, error) {
	fdb, err := k.cfg.Kernel.FDB(t.net.Tunnel)
	if err != nil {
		return kernel.Forwarding{}, err
	}
	neighbors, err := k.cfg.Kernel.Neighbors(t.net.Device)
	return kernel.Forwarding{FDB: fdb, Neighbors: neighbors}, err
}
