/** What the dashboard uses of Preact and htm, as far as its types matter. */
export type Node = any;
export function h(type: any, props?: any, ...children: any[]): Node;
export function html(strings: TemplateStringsArray, ...values: any[]): Node;
export function render(node: Node, parent: Element): void;
export function createContext<T>(value: T): { Provider: any; value: T };
export function useContext<T>(context: { value: T }): T;
export function useState(initial: null): [any, (next: any) => void];
export function useState<T>(initial: T | (() => T)): [T, (next: T | ((before: T) => T)) => void];
export function useEffect(effect: () => void | (() => void) | undefined, inputs?: any[]): void;
export function useLayoutEffect(effect: () => void | (() => void) | undefined, inputs?: any[]): void;
export function useRef(initial: null): { current: any };
export function useRef<T>(initial: T): { current: T };
export function useCallback<T extends (...given: any[]) => any>(callback: T, inputs: any[]): T;
export function useMemo<T>(make: () => T, inputs: any[]): T;
