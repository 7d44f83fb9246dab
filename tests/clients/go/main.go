// A client of bursar written from the contract alone: each scenario is run on every target named.
package main

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

// A list of targets: the flag may be given more than once.
type targets []string

func (list *targets) String() string { return strings.Join(*list, ",") }

func (list *targets) Set(target string) error {
	*list = append(*list, target)
	return nil
}

func main() {
	var list targets
	flag.Var(&list, "target", "a sidecar, as unix:/path or 127.0.0.1:port; may be repeated")
	flag.Parse()
	if len(list) == 0 {
		fmt.Fprintln(os.Stderr, "error: no --target\nhint: --target unix:/run/bursar/bursar.sock")
		os.Exit(2)
	}
	passed, failed := 0, 0
	for _, target := range list {
		for _, scenario := range scenarios {
			if err := run(target, scenario); err != nil {
				failed++
				fmt.Printf("FAILED %s over %s: %v\n", scenario.promise, target, err)
				continue
			}
			passed++
			fmt.Printf("ok     %s over %s\n", scenario.promise, target)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
