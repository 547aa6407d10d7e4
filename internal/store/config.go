package store

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

const (
	defaultPort   = "2379"
	defaultPrefix = "weft/"
)

// Config says which store, and as whom. Files are read for every connection that is
// made: one that cannot be used is a store that is down until it can, and a renewed
// certificate is taken with the next connection.
type Config struct {
	// Endpoints is the text of WEFT_STORE: "etcd://h1:2379,h2:2379", with port 2379
	// where none is given, IPv6 addresses in brackets, and if wanted "/prefix" at the
	// end instead of "/weft". "etcds://" is TLS with the system's authorities.
	Endpoints string
	// CA, Cert and Key are PEM files. CA replaces the system's authorities; Cert and
	// Key go together. Any of them means TLS.
	CA, Cert, Key string
	// User and Password go together; neither means none.
	User, Password string
	// Logger hears of the store going down and coming back; nil is silent.
	Logger *slog.Logger
	// OnChange is called when the store is first known to be up or down and at every
	// change. It must return soon and must not close the store.
	OnChange func(up bool)
}

// target is a Config that was found good.
type target struct {
	endpoints []string // host:port
	prefix    string   // ends with a slash
	secure    bool     // TLS
}

func (c Config) parse() (target, error) {
	scheme, rest, _ := strings.Cut(c.Endpoints, "://")
	if scheme != "etcd" && scheme != "etcds" {
		return target{}, fmt.Errorf("%w: WEFT_STORE %q: it must begin with etcd:// or etcds://", ErrConfig, c.Endpoints)
	}
	if strings.Contains(rest, "@") { // the value may be a secret
		return target{}, fmt.Errorf("%w: WEFT_STORE has an '@': user and password belong into WEFT_STORE_USER and WEFT_STORE_PASSWORD", ErrConfig)
	}
	hosts, prefix, _ := strings.Cut(rest, "/")
	var t target
	for text := range strings.SplitSeq(hosts, ",") {
		ep, err := parseEndpoint(text)
		if err != nil {
			return target{}, fmt.Errorf("%w: WEFT_STORE %q: %w", ErrConfig, c.Endpoints, err)
		}
		if slices.Contains(t.endpoints, ep) {
			return target{}, fmt.Errorf("%w: WEFT_STORE %q: %s is there twice", ErrConfig, c.Endpoints, ep)
		}
		t.endpoints = append(t.endpoints, ep)
	}
	var err error
	if t.prefix, err = parsePrefix(prefix); err != nil {
		return target{}, fmt.Errorf("%w: WEFT_STORE %q: %w", ErrConfig, c.Endpoints, err)
	}
	if (c.User == "") != (c.Password == "") {
		return target{}, fmt.Errorf("%w: WEFT_STORE_USER and WEFT_STORE_PASSWORD go together, and one of them is empty", ErrConfig)
	}
	if (c.Cert == "") != (c.Key == "") {
		return target{}, fmt.Errorf("%w: WEFT_STORE_CERT and WEFT_STORE_KEY go together, and one of them is empty", ErrConfig)
	}
	t.secure = scheme == "etcds" || c.CA != "" || c.Cert != ""
	return t, nil
}

// parseEndpoint reads host, host:port, [v6] or [v6]:port.
func parseEndpoint(text string) (string, error) {
	host, port, err := net.SplitHostPort(text)
	if err != nil {
		host, port = text, defaultPort
		if inner, ok := strings.CutPrefix(text, "["); ok {
			if host, ok = strings.CutSuffix(inner, "]"); !ok {
				return "", fmt.Errorf("endpoint %q: want host, host:port or [IPv6]:port", text)
			}
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("endpoint %q: port %q is not between 1 and 65535", text, port)
	}
	addr, err := netip.ParseAddr(host)
	bracketed := strings.HasPrefix(text, "[")
	switch {
	case err == nil && addr.Is6() != bracketed:
		return "", fmt.Errorf("endpoint %q: IPv6 addresses, and only these, stand in brackets", text)
	case err != nil && (bracketed || !validHost(host)):
		return "", fmt.Errorf("endpoint %q: %q is neither a host name nor an address", text, host)
	}
	return net.JoinHostPort(host, port), nil
}

// validHost says whether a name can be resolved at all. What looks like an IPv4
// address and is none is refused.
func validHost(name string) bool {
	letters := false
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for _, c := range []byte(label) {
			letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '_'
			if !letter && (c < '0' || c > '9') {
				return false
			}
			letters = letters || letter
		}
	}
	return letters && len(name) <= 253
}

func parsePrefix(text string) (string, error) {
	text = strings.TrimSuffix(text, "/")
	if text == "" {
		return defaultPrefix, nil
	}
	for part := range strings.SplitSeq(text, "/") {
		if part == "" || strings.ContainsFunc(part, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("?#,", c) }) {
			return "", fmt.Errorf("prefix %q: want parts of letters, digits and marks with one slash between them", text)
		}
	}
	return text + "/", nil
}

// A fileError is a file of the settings that cannot be used.
type fileError struct {
	setting string // which
	err     error
}

// Error names the setting, the file and what to do.
func (e fileError) Error() string {
	return fmt.Sprintf("%s: %v: correct the file, it is read again, or the setting", e.setting, e.err)
}

// Unwrap returns the cause.
func (e fileError) Unwrap() error { return e.err }

// tls reads the files as they are now. Its errors are of type fileError.
func (c Config) tls() (*tls.Config, error) {
	t := &tls.Config{MinVersion: tls.VersionTLS12}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, fileError{"WEFT_STORE_CA", err}
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fileError{"WEFT_STORE_CA", fmt.Errorf("%s has no certificate in PEM form", c.CA)}
		}
	}
	if c.Cert != "" {
		pair, err := tls.LoadX509KeyPair(c.Cert, c.Key)
		if err != nil {
			return nil, fileError{fmt.Sprintf("WEFT_STORE_CERT %s with WEFT_STORE_KEY %s", c.Cert, c.Key), err}
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
