package driver

import (
	"maps"
	"slices"
)

// Troubles are what is wrong with networks and only a person can mend, by the network's
// id, as the last reconciliation found them.
func (d *Driver) Troubles() map[string][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.troubles)
}

// noteTroubles looks for them. astray are those of networks that are not where they should
// be. What is new, and what is over, is logged once.
func (d *Driver) noteTroubles(actual Actual, astray map[string]string) {
	now := map[string][]string{}
	for _, n := range d.Networks() {
		var list []string
		if text := astray[n.ID]; text != "" {
			list = append(list, text)
		}
		if w, ok := d.cfg.Kinds[n.Mode].(Watcher); ok {
			list = append(list, w.Troubles(actual, n, d.joined(n.ID))...)
		}
		if len(list) > 0 {
			now[n.ID] = list
		}
	}
	d.mu.Lock()
	before := d.troubles
	d.troubles = now
	d.mu.Unlock()
	for id, list := range now {
		for _, text := range list {
			if !slices.Contains(before[id], text) {
				d.log.Warn("network in trouble", "network", short(id), "what", text)
			}
		}
	}
	for id, list := range before {
		for _, text := range list {
			if !slices.Contains(now[id], text) {
				d.log.Info("trouble of a network is over", "network", short(id), "what", text)
			}
		}
	}
}
