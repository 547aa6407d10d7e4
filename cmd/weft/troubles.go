package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"

	"github.com/weft-net/weft/driver"
	"github.com/weft-net/weft/internal/directory"
	"github.com/weft-net/weft/internal/engine"
)

// listTime bounds how long a command waits for the names of networks.
const listTime = time.Second

// troubles are what only a person can mend, one sentence each.
func (h *house) troubles(ctx context.Context) []string {
	return slices.Concat(h.blindness(), h.networkTroubles(ctx))
}

// blindness is that of a plugin from which the engine's runtime keeps what the host mounts.
func (h *house) blindness() []string {
	mounts, err := os.ReadFile(mountinfo)
	if err != nil {
		h.log.Debug("mounts", "err", err)
		return nil
	}
	if engine.PluginID(string(mounts)) == "" || engine.SeesMounts(string(mounts)) {
		return nil
	}
	return []string{"the plugin cannot see the network namespaces of containers that start, so they get no names of other hosts and attach=direct is not used: " +
		"its /run is private. If default-runtime in daemon.json is not runc, take it out and restart the engine; else run `mount --make-rshared /run` and start the plugin again"}
}

// byNetwork are the troubles of networks by id: what a host finds alone, and what it takes
// the others' records to find.
func (h *house) byNetwork() map[string][]string {
	all := h.twins()
	for id, texts := range h.driver.Troubles() {
		all[id] = append(slices.Clip(texts), all[id]...)
	}
	return all
}

func (h *house) networkTroubles(ctx context.Context) []string {
	found := h.byNetwork()
	if len(found) == 0 {
		return nil
	}
	return troubleTexts(found, h.networkNames(ctx, h.driver.Networks()))
}

// networkNames are the names of this host's networks by id, as far as the engine or the cluster
// tells them now.
func (h *house) networkNames(ctx context.Context, networks []driver.Network) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, listTime)
	defer cancel()
	listed, err := h.engine.Networks(ctx)
	if err != nil {
		h.log.Debug("names of networks", "err", err) // the cluster may know them
	}
	record := func(string) (directory.Network, bool) { return directory.Network{}, false }
	if h.directory != nil {
		record = h.directory.Network
	}
	return networkNames(networks, listed, record)
}

// networkNames are the names of networks by id, as far as the engine lists them or they are
// the cluster's, whose records say it by UUID.
func networkNames(networks []driver.Network, listed []engine.Network, record func(uuid string) (directory.Network, bool)) map[string]string {
	names := make(map[string]string)
	for _, n := range networks {
		if n.Shared != nil {
			r, _ := record(n.Shared.UUID)
			names[n.ID] = r.Name
		}
	}
	for _, n := range listed {
		names[n.ID] = n.Name
	}
	return names
}

// troubleTexts says of which network each trouble is, by id and by its name if that is known.
func troubleTexts(troubles map[string][]string, names map[string]string) []string {
	var out []string
	for _, id := range slices.Sorted(maps.Keys(troubles)) {
		who := fmt.Sprintf("network %.12s", id)
		if name := names[id]; name != "" {
			who = fmt.Sprintf("network %s (%.12s)", name, id)
		}
		for _, text := range troubles[id] {
			out = append(out, who+": "+text)
		}
	}
	return out
}
