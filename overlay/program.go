package overlay

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/kernel"
)

// again is the pause after entries could not be programmed.
const again = time.Second

// tunnel is one network that this host programs.
type tunnel struct {
	mu            sync.Mutex // one change of it at a time
	id, uuid      string
	bridge, vxlan string
	// up says that bridge and device are there.
	up bool
	// programmed is what the kernel has, nil if it has to be asked.
	programmed *kernel.Forwarding
}

func (t *tunnel) lock() (unlock func()) {
	t.mu.Lock()
	return t.mu.Unlock
}

// attend follows a network from now on.
func (k *Kind) attend(n driver.Network) *tunnel {
	k.mu.Lock()
	t := k.tunnels[n.Shared.UUID]
	if t == nil {
		t = &tunnel{id: n.ID, uuid: n.Shared.UUID, bridge: n.Device, vxlan: device(prefixVXLAN, n)}
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
		t.up = false
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
	retry := time.NewTimer(again)
	defer retry.Stop()
	for {
		for _, uuid := range k.takeDirty() {
			if err := k.program(uuid, false); err != nil {
				k.log.Error("program a network's entries; it is tried again", "network", uuid, "err", err)
				k.mu.Lock()
				k.dirty[uuid] = true
				k.mu.Unlock()
				retry.Reset(again)
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

func (k *Kind) takeDirty() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := slices.Sorted(maps.Keys(k.dirty))
	clear(k.dirty)
	return out
}

// program makes the kernel have a network's entries. whole asks the kernel what it
// has; else what was programmed last counts. As long as the directory has not seen the
// network, nothing is taken away.
func (k *Kind) program(uuid string, whole bool) error {
	k.mu.Lock()
	t := k.tunnels[uuid]
	k.mu.Unlock()
	if t == nil {
		return nil
	}
	defer t.lock()()
	if !t.up || !k.cfg.Directory.Follows(uuid) {
		return nil
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
	want := forwarding(place{bridge: t.bridge, vxlan: t.vxlan, local: k.cfg.Underlay()}, k.cfg.Me(), k.cfg.Directory.Endpoints(uuid))
	changes := kernel.DiffForwarding(want, *t.programmed)
	if changes.Len() == 0 {
		return nil
	}
	if err := k.cfg.Kernel.ApplyForwarding(changes); err != nil {
		t.programmed = nil
		return err
	}
	t.programmed = &want
	return nil
}

// entries asks the kernel.
func (k *Kind) entries(t *tunnel) (kernel.Forwarding, error) {
	fdb, err := k.cfg.Kernel.FDB(t.vxlan)
	if err != nil {
		return kernel.Forwarding{}, err
	}
	neighbors, err := k.cfg.Kernel.Neighbors(t.bridge)
	return kernel.Forwarding{FDB: fdb, Neighbors: neighbors}, err
}
