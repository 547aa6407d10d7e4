package kernel

import (
	"context"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// Watch sends a hint whenever a device, an address or a route of this
// namespace changes, and closes the channel when ctx ends. Hints that nobody
// took yet are merged. When the kernel drops the subscription, as it does when
// events come faster than they are read, there is a hint and a new subscription.
func (h *Host) Watch(ctx context.Context) (<-chan struct{}, error) {
	sub, err := h.subscribe()
	if err != nil {
		return nil, err
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		for {
			if sub != nil {
				sub.forward(ctx, out)
			}
			hint(out) // anything may have happened meanwhile
			select {
			case <-ctx.Done():
				return
			case <-time.After(resubscribeAfter):
			}
			if sub, err = h.subscribe(); err != nil {
				h.log.Warn("changes of devices are noticed late", "err", err)
			}
		}
	}()
	return out, nil
}

const (
	// resubscribeAfter lets the burst that broke a subscription pass.
	resubscribeAfter = 100 * time.Millisecond
	// eventBuffer is room for the events of some thousand devices.
	eventBuffer = 4 << 20
)

// subscription is one set of event sockets.
type subscription struct {
	links  chan netlink.LinkUpdate
	addrs  chan netlink.AddrUpdate
	routes chan netlink.RouteUpdate
	stop   chan struct{}
}

func (h *Host) subscribe() (*subscription, error) {
	const room = 64
	s := &subscription{make(chan netlink.LinkUpdate, room), make(chan netlink.AddrUpdate, room), make(chan netlink.RouteUpdate, room), make(chan struct{})}
	note := func(err error) { h.log.Debug("netlink subscription", "err", err) }
	err := netlink.LinkSubscribeWithOptions(s.links, s.stop, netlink.LinkSubscribeOptions{
		ErrorCallback: note, ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
	if err == nil {
		err = netlink.AddrSubscribeWithOptions(s.addrs, s.stop, netlink.AddrSubscribeOptions{
			ErrorCallback: note, ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
	}
	if err == nil {
		err = netlink.RouteSubscribeWithOptions(s.routes, s.stop, netlink.RouteSubscribeOptions{
			ErrorCallback: note, ReceiveBufferSize: eventBuffer, ReceiveBufferForceSize: true})
	}
	if err != nil {
		close(s.stop)
		return nil, fmt.Errorf("watch devices, addresses and routes: %w", err)
	}
	return s, nil
}

// forward turns events into hints until ctx ends or one of the sockets does,
// and closes all of them.
func (s *subscription) forward(ctx context.Context, out chan<- struct{}) {
	defer func() {
		close(s.stop)
		// Their readers end when the sockets are closed, and may hold an event.
		go drain(s.links)
		go drain(s.addrs)
		go drain(s.routes)
	}()
	for {
		var ok bool
		select {
		case <-ctx.Done():
			return
		case _, ok = <-s.links:
		case _, ok = <-s.addrs:
		case _, ok = <-s.routes:
		}
		if !ok {
			return
		}
		hint(out)
	}
}

// hint leaves a word in a channel that holds one.
func hint(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func drain[T any](c <-chan T) {
	for range c {
	}
}
