package firewall

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

const (
	// settleTime is how long changes are gathered into one hint.
	settleTime = 25 * time.Millisecond
	// pollTime is how often legacy iptables is looked at: it sends no events.
	pollTime = 150 * time.Millisecond
)

// Watch hints that somebody else may have changed what weft made, or made or
// removed the chains that it has to live with, or that the zone manager forgot
// weft's bridges: call Mend. Hints are gathered for
// a few milliseconds; a hint without cause is possible, a lost one for rare
// changes of legacy iptables too, so a timer should call Mend as well. The
// channel is closed when the context is done.
func (n *NFT) Watch(ctx context.Context) <-chan struct{} {
	n.mu.Lock()
	ns, own := n.tables.ns, func() uint32 {
		n.mu.Lock()
		defer n.mu.Unlock()
		return n.tables.port
	}
	events, eventsErr := listen(ns)
	legacy, legacyErr := openLegacy(ns)
	n.mu.Unlock()
	if err := errors.Join(eventsErr, legacyErr); err != nil {
		n.log.Warn("changes by others will be noticed late", "error", err)
	}
	dirty, out := make(chan struct{}, 1), make(chan struct{}, 1)
	var wg sync.WaitGroup
	if events != nil {
		wg.Go(func() { follow(events, own, dirty) })
	}
	wg.Go(func() { poll(ctx, legacy, n.gate.edits.Load, dirty) })
	if n.config.Zones != nil {
		wg.Go(func() { n.config.Zones.Watch(ctx, func() { hint(dirty) }) })
	}
	go func() {
		gather(ctx, dirty, out)
		if events != nil {
			_ = events.Close()
		}
		wg.Wait()
		legacy.close()
		close(out)
	}()
	return out
}

// hint leaves a word in a channel that holds one.
func hint(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// gather turns bursts into single hints.
func gather(ctx context.Context, dirty <-chan struct{}, out chan<- struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-dirty:
		}
		timer := time.NewTimer(settleTime)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		// What came meanwhile is part of this hint.
		select {
		case <-dirty:
		default:
		}
		hint(out)
	}
}

// listen subscribes to changes of nftables.
func listen(ns namespace) (*netlink.Conn, error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, &netlink.Config{NetNS: ns.fd(), Groups: 1 << (unix.NFNLGRP_NFTABLES - 1)})
	if err != nil {
		return nil, err
	}
	if err := c.SetReadBuffer(maxTransaction); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

// follow hints at each event that matters, until the socket is closed.
func follow(c *netlink.Conn, own func() uint32, dirty chan<- struct{}) {
	for {
		msgs, err := c.Receive()
		switch {
		case errors.Is(err, os.ErrClosed), errors.Is(err, unix.EBADF):
			return
		case errors.Is(err, unix.ENOBUFS):
			// Events were lost: anything may have happened.
			hint(dirty)
			continue
		case err != nil:
			return
		}
		for _, m := range msgs {
			if matters(m) && m.Header.PID != own() {
				hint(dirty)
			}
		}
	}
}

// matters says whether the event is about weft's table, or about a chain of
// iptables that weft reads.
func matters(m netlink.Message) bool {
	if m.Header.Type>>8 != unix.NFNL_SUBSYS_NFTABLES || len(m.Data) < 4 {
		return false
	}
	kind := uint16(m.Header.Type & 0xff)
	if kind == unix.NFT_MSG_NEWGEN {
		return false
	}
	table, name := eventNames(m.Data[4:])
	switch m.Data[0] {
	case unix.NFPROTO_INET, unix.NFPROTO_BRIDGE:
		return table == tableName
	case unix.NFPROTO_NETDEV:
		return strings.HasPrefix(table, shortcutPrefix)
	case unix.NFPROTO_IPV4, unix.NFPROTO_IPV6:
	default:
		return false
	}
	if table != filterName {
		return false
	}
	switch kind {
	case unix.NFT_MSG_NEWTABLE, unix.NFT_MSG_DELTABLE:
		return true
	case unix.NFT_MSG_NEWCHAIN, unix.NFT_MSG_DELCHAIN, unix.NFT_MSG_NEWRULE, unix.NFT_MSG_DELRULE:
		return name == chainForward || name == chainUser || name == chainOurs
	}
	return false
}

// eventNames returns the table that an event is about, and the chain if it is
// about one. The attributes of chains and rules differ: a chain's name is its
// third, a rule's chain its second.
func eventNames(data []byte) (table, chain string) {
	ad, err := netlink.NewAttributeDecoder(data)
	if err != nil {
		return "", ""
	}
	for ad.Next() {
		switch ad.Type() {
		case unix.NFTA_TABLE_NAME:
			table = ad.String()
		case unix.NFTA_RULE_CHAIN: // of a chain, its handle
			if len(ad.Bytes()) > 0 && chain == "" {
				chain = ad.String()
			}
		case unix.NFTA_CHAIN_NAME: // of a rule, its handle
			if name := ad.String(); name == chainForward || name == chainUser || name == chainOurs {
				chain = name
			}
		}
	}
	return table, chain
}
