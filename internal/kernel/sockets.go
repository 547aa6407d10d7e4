package kernel

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Layout of the kernel's answer (linux/inet_diag.h).
const (
	sockDiagByFamily = 20
	diagMessageSize  = 72
	diagCgroupID     = 21 // INET_DIAG_CGROUP_ID, Linux 5.9
)

// diagRequest asks for all sockets of a family and protocol.
type diagRequest struct{ family, proto uint8 }

// Len is the size of struct inet_diag_req_v2.
func (diagRequest) Len() int { return 56 }

// Serialize encodes the request: every state, no filter.
func (r diagRequest) Serialize() []byte {
	b := make([]byte, r.Len())
	b[0], b[1] = r.family, r.proto
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff)
	return b
}

// socket is one line of the kernel's answer.
type socket struct {
	local  netip.AddrPort
	peer   uint16 // port of the other side, 0 while nobody is connected
	uid    uint32
	cgroup uint64
}

// sockets lists the sockets of a family and protocol.
func sockets(family, proto uint8) ([]socket, error) {
	req := nl.NewNetlinkRequest(sockDiagByFamily, unix.NLM_F_DUMP)
	req.AddData(diagRequest{family, proto})
	msgs, err := dump(func() ([][]byte, error) { return req.Execute(unix.NETLINK_INET_DIAG, sockDiagByFamily) })
	if err != nil {
		return nil, fmt.Errorf("list sockets: %w", err)
	}
	var out []socket
	for _, m := range msgs {
		if len(m) < diagMessageSize {
			return nil, errors.New("list sockets: the kernel's answer is too short")
		}
		s := socket{peer: binary.BigEndian.Uint16(m[6:]), uid: binary.NativeEndian.Uint32(m[64:])}
		addr := netip.AddrFrom4([4]byte(m[8:12]))
		if family == unix.AF_INET6 {
			addr = netip.AddrFrom16([16]byte(m[8:24])).Unmap()
		}
		s.local = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:]))
		attrs, err := nl.ParseRouteAttr(m[diagMessageSize:])
		if err != nil {
			return nil, fmt.Errorf("list sockets: %w", err)
		}
		for _, a := range attrs {
			if a.Attr.Type == diagCgroupID && len(a.Value) == 8 {
				s.cgroup = binary.NativeEndian.Uint64(a.Value)
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// PortHolder finds a socket that holds a local port: bound to that address or
// to every address. It is ErrNotFound when no such socket is seen.
func (h *Host) PortHolder(proto uint8, at netip.AddrPort) (Holder, error) {
	if proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_UDP {
		return Holder{}, fmt.Errorf("port %s: protocol %d: %w", at, proto, ErrNotFound)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		list, err := sockets(family, proto)
		if err != nil {
			return Holder{}, err
		}
		for _, s := range list {
			local := s.local.Addr()
			if s.local.Port() != at.Port() || s.peer != 0 || local != at.Addr() && !local.IsUnspecified() && !at.Addr().IsUnspecified() {
				continue
			}
			return Holder{Local: s.local, UID: s.uid, Unit: h.unit(s.cgroup)}, nil
		}
	}
	return Holder{}, fmt.Errorf("port %s: %w", at, ErrNotFound)
}
