//go:build linux

package lab

import (
	"context"
	"slices"

	"github.com/weft-net/weft/internal/testca"
)

// certify puts certificates on the members, and that of clients on all hosts.
func (s *Store) certify(ctx context.Context) error {
	ca, err := testca.New("store of lab " + s.lab.ID)
	if err != nil {
		return err
	}
	// Its name is no user's: who has it must log in nevertheless.
	client, err := ca.Issue("client")
	if err != nil {
		return err
	}
	return each(s.lab.all(), func(h *Host) error {
		if err := h.writeTLS(ctx, clientTLS, ca.PEM, client); err != nil || !slices.Contains(s.cfg.Members, h) {
			return err
		}
		// Members are clients of each other.
		member, err := ca.Issue(h.Name, h.Name, h.IPv4.String(), h.IPv6.String())
		if err != nil {
			return err
		}
		return h.writeTLS(ctx, memberTLS, ca.PEM, member)
	})
}

func (h *Host) writeTLS(ctx context.Context, dir, ca string, pair testca.Pair) error {
	for name, text := range map[string]string{"ca.pem": ca, "cert.pem": pair.Cert, "key.pem": pair.Key} {
		if err := h.WriteFile(ctx, dir+"/"+name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
