// Command demo is the whole image of the two containers that `make up` starts:
// a web server that says who it is, and a client.
package main

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "serve":
		host, err := os.Hostname()
		if err != nil {
			return err
		}
		handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "hello from container %s to %s\n", host, r.RemoteAddr)
		})
		srv := &http.Server{Addr: args[1], Handler: handler, ReadHeaderTimeout: time.Second}
		return srv.ListenAndServe()
	case len(args) == 2 && args[0] == "get":
		client := http.Client{Timeout: 5 * time.Second}
		resp, err := client.Get(args[1]) //nolint:noctx // the client has a timeout
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, resp.Body)
		return errors.Join(err, resp.Body.Close())
	case len(args) == 1 && args[0] == "wait":
		stop := make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
		<-stop
		return nil
	}
	return errors.New("use: demo serve ADDRESS | demo get URL | demo wait")
}
