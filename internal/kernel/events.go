package kernel

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Watch sends a hint whenever a device, an address or a route of this
// namespace changes, and closes the channel when ctx ends or the kernel
// dropped the subscription. Hints that nobody took yet are merged.
func (h *Host) Watch(ctx context.Context) (<-chan struct{}, error) {
	links := make(chan netlink.LinkUpdate, 64)
	addrs := make(chan netlink.AddrUpdate, 64)
	routes := make(chan netlink.RouteUpdate, 64)
	stop := make(chan struct{})
	note := func(err error) { h.log.Debug("netlink subscription", "err", err) }
	err := netlink.LinkSubscribeWithOptions(links, stop, netlink.LinkSubscribeOptions{ErrorCallback: note})
	if err == nil {
		err = netlink.AddrSubscribeWithOptions(addrs, stop, netlink.AddrSubscribeOptions{ErrorCallback: note})
	}
	if err == nil {
		err = netlink.RouteSubscribeWithOptions(routes, stop, netlink.RouteSubscribeOptions{ErrorCallback: note})
	}
	if err != nil {
		close(stop)
		return nil, fmt.Errorf("watch devices, addresses and routes: %w", err)
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		defer close(stop)
		for {
			var ok bool
			select {
			case <-ctx.Done():
				return
			case _, ok = <-links:
			case _, ok = <-addrs:
			case _, ok = <-routes:
			}
			if !ok {
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}
