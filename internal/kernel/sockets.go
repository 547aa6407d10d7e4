package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// PortHolder finds a socket that holds a local port: bound to that address or
// to every address. It is ErrNotFound when no such socket is seen.
func (h *Host) PortHolder(proto uint8, at netip.AddrPort) (Holder, error) {
	list := netlink.SocketDiagTCP
	if proto == unix.IPPROTO_UDP {
		list = netlink.SocketDiagUDP
	}
	if proto != unix.IPPROTO_TCP && proto != unix.IPPROTO_UDP {
		return Holder{}, fmt.Errorf("port %s: protocol %d: %w", at, proto, ErrNotFound)
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		socks, err := dump(func() ([]*netlink.Socket, error) { return list(family) })
		if err != nil {
			return Holder{}, fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range socks {
			local, ok := netip.AddrFromSlice(s.ID.Source)
			if !ok || s.ID.SourcePort != at.Port() || s.ID.DestinationPort != 0 {
				continue
			}
			if local = local.Unmap(); local != at.Addr() && !local.IsUnspecified() && !at.Addr().IsUnspecified() {
				continue
			}
			return Holder{Local: netip.AddrPortFrom(local, s.ID.SourcePort), UID: s.UID, Unit: h.unitOf(s.INode)}, nil
		}
	}
	return Holder{}, fmt.Errorf("port %s: %w", at, ErrNotFound)
}

// unitOf finds the cgroup of the process that has the socket open. A plugin
// without the host's process list finds none.
func (h *Host) unitOf(inode uint32) string {
	want := fmt.Sprintf("socket:[%d]", inode)
	proc := "/proc"
	pids, err := os.ReadDir(proc)
	if err != nil {
		return ""
	}
	for _, p := range pids {
		if !p.IsDir() || p.Name()[0] < '0' || p.Name()[0] > '9' {
			continue
		}
		dir := filepath.Join(proc, p.Name())
		if !hasSocket(filepath.Join(dir, "fd"), want) {
			continue
		}
		return processUnit(dir)
	}
	return ""
}

func hasSocket(dir, want string) bool {
	fds, err := os.ReadDir(dir)
	if err != nil {
		return false
	}
	for _, fd := range fds {
		if target, err := os.Readlink(filepath.Join(dir, fd.Name())); err == nil && target == want {
			return true
		}
	}
	return false
}

// processUnit names a process by its systemd unit, else by its command.
func processUnit(dir string) string {
	groups, _ := os.ReadFile(filepath.Join(dir, "cgroup"))
	for line := range strings.Lines(string(groups)) {
		base := filepath.Base(strings.TrimSpace(line))
		if strings.HasSuffix(base, ".service") || strings.HasSuffix(base, ".scope") || strings.HasSuffix(base, ".socket") {
			return base
		}
	}
	comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
	return strings.TrimSpace(string(comm))
}
