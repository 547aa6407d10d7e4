package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// neighMessage is one RTM_NEWNEIGH or RTM_DELNEIGH (struct ndmsg): of a bridge's
// or VXLAN device's table with family AF_BRIDGE, else of the neighbours.
type neighMessage struct {
	typ, flags uint16 // of netlink
	family     uint8
	index      int
	state      uint16
	ntf        uint8
	dst        []byte
	mac        []byte
}

func (m neighMessage) put(b *batch) {
	b.message(m.typ, m.flags, func(buf []byte) []byte {
		buf = append(buf, m.family, 0, 0, 0)
		buf = binary.NativeEndian.AppendUint32(buf, uint32(m.index))
		buf = binary.NativeEndian.AppendUint16(buf, m.state)
		buf = append(buf, m.ntf, 0)
		if m.dst != nil {
			buf = attribute(buf, netlink.NDA_DST, m.dst)
		}
		if m.mac != nil {
			buf = attribute(buf, netlink.NDA_LLADDR, m.mac)
		}
		return buf
	})
}

func (e FDBEntry) message(index int, add bool) neighMessage {
	m := neighMessage{typ: unix.RTM_DELNEIGH, family: unix.AF_BRIDGE, index: index, ntf: netlink.NTF_MASTER, mac: e.MAC[:]}
	if add {
		m.typ, m.flags = unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE
	}
	// What is called static in a bridge is NOARP; PERMANENT there means an
	// address of the bridge's own.
	m.state = netlink.NUD_NOARP
	if e.Dst.IsValid() {
		m.ntf, m.state, m.dst = netlink.NTF_SELF, netlink.NUD_NOARP|netlink.NUD_PERMANENT, e.Dst.Unmap().AsSlice()
		if add && e.MAC.several() {
			m.flags = unix.NLM_F_CREATE | unix.NLM_F_APPEND
		}
	}
	return m
}

func (n Neighbor) message(index int, add bool) neighMessage {
	m := neighMessage{typ: unix.RTM_DELNEIGH, family: unix.AF_INET, index: index, dst: n.IP.Unmap().AsSlice()}
	if n.IP.Unmap().Is6() {
		m.family = unix.AF_INET6
	}
	if add {
		m.typ, m.flags = unix.RTM_NEWNEIGH, unix.NLM_F_CREATE|unix.NLM_F_REPLACE
		m.state, m.mac = netlink.NUD_PERMANENT, n.MAC[:]
	}
	return m
}

// ApplyForwarding adds and deletes entries, many by one system call (about 2 µs
// each instead of 10). It does not stop at a failure: the error joins those of
// all entries that failed, each with the entry in its text. Adding replaces
// what is there, deleting what is absent is success, also with its device; so
// a repetition changes nothing. Additions are done first; what is both added and
// deleted stays.
//
// Permanent neighbours do not count against net.ipv4.neigh.default.gc_thresh3
// since Linux 5.0; before, a host with more than 1,024 needs it raised.
func (h *Host) ApplyForwarding(c ForwardingChanges) error {
	p := &program{find: h.indexOf, index: map[string]int{}}
	added := c.Add.places()
	for _, e := range c.Add.FDB {
		p.put(e.Link, true, e, e.check(), func(i int) neighMessage { return e.message(i, true) })
	}
	for _, n := range c.Add.Neighbors {
		p.put(n.Link, true, n, n.check(), func(i int) neighMessage { return n.message(i, true) })
	}
	for _, e := range c.Delete.FDB {
		if !added[e.place()] {
			p.put(e.Link, false, e, e.check(), func(i int) neighMessage { return e.message(i, false) })
		}
	}
	for _, n := range c.Delete.Neighbors {
		if !added[n.place()] {
			p.put(n.Link, false, n, n.check(), func(i int) neighMessage { return n.message(i, false) })
		}
	}
	results, err := h.batch.run(&p.batch)
	if err != nil {
		return errors.Join(append(p.errs, fmt.Errorf("apply forwarding: %w", err))...)
	}
	for i, err := range results {
		if err != nil && (!p.steps[i].del || !gone(err, p.steps[i].entry)) {
			p.errs = append(p.errs, fmt.Errorf("%s: %w", p.steps[i], vocabulary(err)))
		}
	}
	return errors.Join(p.errs...)
}

// gone says whether an error of a deletion means that there is nothing to
// delete. A device that is no port of a bridge has no entry in one: EOPNOTSUPP
// or, depending on the kernel, EINVAL.
func gone(err error, entry fmt.Stringer) bool {
	e, fdb := entry.(FDBEntry)
	return errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) ||
		fdb && !e.Dst.IsValid() && (errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.EINVAL))
}

func (h *Host) indexOf(name string) (int, error) {
	link, err := h.nl.LinkByName(name)
	if err != nil {
		return 0, vocabulary(err)
	}
	return link.Attrs().Index, nil
}

// program is a batch that knows what each message is for.
type program struct {
	batch batch
	steps []step
	errs  []error
	find  func(link string) (int, error)
	index map[string]int // of each link, 0 for one that cannot be had
}

type step struct {
	del   bool
	entry fmt.Stringer
}

// String is the step as bridge(8) or ip(8) would say it.
func (s step) String() string {
	if s.del {
		return "delete " + s.entry.String()
	}
	return "add " + s.entry.String()
}

// put adds the message for one entry. A device that is not there is one error
// for all entries that need it.
func (p *program) put(link string, add bool, entry fmt.Stringer, bad error, message func(index int) neighMessage) {
	if bad != nil {
		p.errs = append(p.errs, bad)
		return
	}
	index, known := p.index[link]
	if !known {
		var err error
		index, err = p.find(link)
		p.index[link] = index
		if err != nil && (add || !errors.Is(err, ErrNotFound)) {
			p.errs = append(p.errs, fmt.Errorf("add entries to %s: %w", link, err))
		}
	}
	if index == 0 {
		return
	}
	p.steps = append(p.steps, step{!add, entry})
	message(index).put(&p.batch)
}

// FDB lists the static entries of a VXLAN device, its own and those of its
// bridge for it, or those of the bridge for any other port. What the kernel made itself, or learned, is not among them.
func (h *Host) FDB(link string) ([]FDBEntry, error) {
	index, err := h.indexOf(link)
	if err != nil {
		return nil, fmt.Errorf("FDB of %s: %w", link, err)
	}
	// The filter is in struct ifinfomsg: with struct ndmsg, kernels without
	// strict checking send every device's.
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	msg := nl.NewIfInfomsg(unix.AF_BRIDGE)
	msg.Index = int32(index)
	req.AddData(msg)
	list, err := h.neighbors(req, index)
	if err != nil {
		return nil, fmt.Errorf("FDB of %s: %w", link, err)
	}
	var out []FDBEntry
	for _, n := range list {
		e := FDBEntry{Link: link}
		if len(n.HardwareAddr) != len(e.MAC) || n.State&netlink.NUD_NOARP == 0 && (n.IP == nil || n.State&netlink.NUD_PERMANENT == 0) {
			continue
		}
		e.MAC = MAC(n.HardwareAddr)
		if dst, ok := netip.AddrFromSlice(n.IP); ok {
			e.Dst = dst
		}
		out = append(out, e)
	}
	return out, nil
}

// Neighbors lists the permanent neighbours of a device, IPv4 and IPv6.
func (h *Host) Neighbors(link string) ([]Neighbor, error) {
	index, err := h.indexOf(link)
	if err != nil {
		return nil, fmt.Errorf("neighbours of %s: %w", link, err)
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETNEIGH, unix.NLM_F_DUMP)
	req.AddData(&netlink.Ndmsg{})
	req.AddData(nl.NewRtAttr(netlink.NDA_IFINDEX, nl.Uint32Attr(uint32(index))))
	list, err := h.neighbors(req, index)
	if err != nil {
		return nil, fmt.Errorf("neighbours of %s: %w", link, err)
	}
	var out []Neighbor
	for _, n := range list {
		addr, ok := netip.AddrFromSlice(n.IP)
		if ok && n.State == netlink.NUD_PERMANENT && len(n.HardwareAddr) == len(MAC{}) && slices.Contains([]int{unix.AF_INET, unix.AF_INET6}, n.Family) {
			out = append(out, Neighbor{Link: link, IP: addr, MAC: MAC(n.HardwareAddr)})
		}
	}
	return out, nil
}

// neighbors decodes a dump of one device's entries.
func (h *Host) neighbors(req *nl.NetlinkRequest, index int) ([]netlink.Neigh, error) {
	msgs, err := dump(func() ([][]byte, error) { return h.ask(req) })
	if err != nil {
		return nil, err
	}
	var out []netlink.Neigh
	for _, m := range msgs {
		if len(m) < (&netlink.Ndmsg{}).Len() {
			return nil, errors.New("the kernel's answer is too short")
		}
		n, err := netlink.NeighDeserialize(m)
		if err != nil {
			return nil, err
		}
		if n.LinkIndex == index {
			out = append(out, *n)
		}
	}
	return out, nil
}
