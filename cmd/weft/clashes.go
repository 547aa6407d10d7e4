package main

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/weft-net/weft/internal/admin"
	"github.com/weft-net/weft/internal/cluster"
	"github.com/weft-net/weft/internal/kernel"
)

// clashesEvery is how often addresses of hosts are compared for the log.
const clashesEvery = 10 * time.Second

// hosts are those of the cluster, with what is wrong with their addresses.
func (h *house) hosts(context.Context) ([]admin.Host, error) {
	if h.cluster == nil {
		return nil, errAlone
	}
	clashes, err := h.clashes()
	if err != nil {
		return nil, err
	}
	return withClashes(h.cluster.Hosts(), clashes), nil
}

func withClashes(hosts []cluster.HostView, clashes []cluster.Clash) []admin.Host {
	out := []admin.Host{}
	for _, v := range hosts {
		host := admin.Host{HostView: v}
		for _, c := range clashes {
			for _, of := range c.Hosts {
				if of.ID == v.ID {
					host.Clash = c.String()
				}
			}
		}
		out = append(out, host)
	}
	return out
}

// clashes are the addresses of hosts that are not one host's alone.
func (h *house) clashes() ([]cluster.Clash, error) {
	hosts := h.cluster.Hosts()
	theirs := make(map[netip.Addr]bool)
	for _, v := range hosts {
		if !v.Me {
			theirs[v.Address.Unmap()] = true
		}
	}
	addrs, err := h.kernel.Addresses()
	if err != nil {
		return nil, err
	}
	local := make(map[netip.Addr]string)
	for _, a := range addrs {
		if local[a.Prefix.Addr()] = ""; !theirs[a.Prefix.Addr()] {
			continue // links are asked for only when it matters
		}
		links, err := h.kernel.Links()
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(links, func(l kernel.Link) bool { return l.Index == a.Link })
		if i >= 0 {
			local[a.Prefix.Addr()] = links[i].Name
		}
	}
	return cluster.Clashes(hosts, local), nil
}

// watchClashes logs clashes until ctx ends, each once as long as it lasts.
func (h *house) watchClashes(ctx context.Context) error {
	tick := time.NewTicker(clashesEvery)
	defer tick.Stop()
	var told map[string]bool
	for {
		now, err := h.clashes()
		if err == nil {
			told = tellClashes(h.log, told, now)
		} else {
			h.log.Debug("compare the addresses of hosts", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// tellClashes logs what began and ended since told, and returns what is told then.
func tellClashes(log *slog.Logger, told map[string]bool, now []cluster.Clash) map[string]bool {
	out := make(map[string]bool)
	for _, c := range now {
		text := c.String()
		out[text] = true
		if !told[text] {
			log.Warn("addresses of hosts clash", "what", text)
		}
	}
	for text := range told {
		if !out[text] {
			log.Info("addresses of hosts clash no more", "what", text)
		}
	}
	return out
}
