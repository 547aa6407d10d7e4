//go:build linux

package lab

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"slices"
	"time"
)

// authority signs the certificates of one store.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  string
}

func newAuthority(name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	cert := certificate(name)
	cert.IsCA, cert.BasicConstraintsValid = true, true
	cert.KeyUsage = x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, cert, cert, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &authority{cert: cert, key: key, pem: asPEM("CERTIFICATE", der)}, nil
}

func certificate(name string) *x509.Certificate {
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    now.Add(-time.Hour),
		NotAfter:     now.Add(24 * time.Hour),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
}

func asPEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

// issue makes a certificate and its key. Members are clients of each other.
func (a *authority) issue(name string, h *Host) (cert, key string, err error) {
	template := certificate(name)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if h != nil {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
		template.DNSNames = []string{h.Name}
		template.IPAddresses = []net.IP{h.IPv4.AsSlice(), h.IPv6.AsSlice()}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", "", err
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		return "", "", err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return "", "", err
	}
	return asPEM("CERTIFICATE", der), asPEM("PRIVATE KEY", pkcs8), nil
}

// certify puts certificates on the members, and that of clients on all hosts.
func (s *Store) certify(ctx context.Context) error {
	ca, err := newAuthority("store of lab " + s.lab.ID)
	if err != nil {
		return err
	}
	// Its name is no user's: who has it must log in nevertheless.
	cert, key, err := ca.issue("client", nil)
	if err != nil {
		return err
	}
	return each(s.lab.all(), func(h *Host) error {
		if err := h.writeTLS(ctx, clientTLS, ca.pem, cert, key); err != nil || !slices.Contains(s.cfg.Members, h) {
			return err
		}
		cert, key, err := ca.issue(h.Name, h)
		if err != nil {
			return err
		}
		return h.writeTLS(ctx, memberTLS, ca.pem, cert, key)
	})
}

func (h *Host) writeTLS(ctx context.Context, dir, ca, cert, key string) error {
	for name, text := range map[string]string{"ca.pem": ca, "cert.pem": cert, "key.pem": key} {
		if err := h.WriteFile(ctx, dir+"/"+name, text, 0o600); err != nil {
			return err
		}
	}
	return nil
}
