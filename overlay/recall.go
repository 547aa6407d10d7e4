package overlay

import (
	"errors"

	"github.com/weft-net/weft/internal/kernel"
)

// recall lets the frames of a network go to the hosts that the directory knew before the
// start, until it has seen the network. That is where broadcasts go, and everything that
// has no entry; no address gets one, because it may be on another host by now. Nothing is
// taken away here: program does that, when it knows better.
func (k *Kind) recall(t *tunnel, uuid string) error {
	at, err := k.place(t)
	if err != nil {
		return err
	}
	var want kernel.Forwarding
	for _, vtep := range k.cfg.Directory.Remembered(uuid) {
		if at.reaches(vtep) {
			want.FDB = append(want.FDB, kernel.FDBEntry{Link: at.vxlan, Dst: vtep})
		}
	}
	if len(want.FDB) == 0 {
		return nil
	}
	have, err := k.entries(t, at)
	if errors.Is(err, kernel.ErrNotFound) {
		return nil // reconcile makes the device, and comes again
	}
	if err != nil {
		return err
	}
	missing := kernel.DiffForwarding(want, have).Add
	if len(missing.FDB) == 0 {
		return nil
	}
	k.log.Info("the store was not seen since the start: containers of other hosts are looked for where these were", "network", t.net.ID, "hosts", len(missing.FDB))
	return k.cfg.Kernel.ApplyForwarding(kernel.ForwardingChanges{Add: missing})
}
